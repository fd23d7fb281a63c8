//! Telling the operators: a webhook that gets JSON, and mail. Each way has its own queue and its own patience, so that
//! a dead mail server does not hold up the webhook. Delivery is tried again, with growing pauses, for a while; what
//! comes meanwhile goes along with it; what is then still not told is counted and logged.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use lettre::message::Mailbox;
use lettre::message::header::{ContentType, MIME_VERSION_1_0};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::fleet::notices::{Notice, Severity, What, one_line};
use crate::redact::Redacted;

/// Messages that wait for one way.
const QUEUE: usize = 64;
/// Notices of one message: what waits behind a way that is away goes along with the next try.
const MOST_TOGETHER: usize = 256;
/// Characters of a text in a subject.
const MAX_SUBJECT: usize = 160;
/// The longest pause between two tries, whatever the other side asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Whom to tell, and how.
#[derive(Clone, Debug, Default)]
pub struct AlertConfig {
    /// A URL that takes JSON by POST. It often holds a secret.
    pub webhook: Option<Redacted<String>>,
    /// Mail.
    pub mail: Option<MailConfig>,
    /// Authorities beside the system's, for both; PEM.
    pub ca_file: Option<PathBuf>,
    /// How often and how long it is tried.
    pub tries: Tries,
}

/// How often and how long it is tried to deliver a message.
#[derive(Clone, Copy, Debug)]
pub struct Tries {
    /// How often.
    pub most: u32,
    /// The first pause after a failure; doubles.
    pub pause: Duration,
    /// One try may take this long.
    pub patience: Duration,
}

impl Default for Tries {
    /// Twelve tries: the last comes about an hour after the first.
    fn default() -> Self {
        Self { most: 12, pause: Duration::from_secs(2), patience: Duration::from_secs(20) }
    }
}

/// How mail is sent.
#[derive(Clone, Debug)]
pub struct MailConfig {
    /// The mail server.
    pub host: String,
    /// Its port: 465 speaks TLS at once, 587 after STARTTLS, others plainly.
    pub port: u16,
    /// How the connection is protected.
    pub tls: MailTls,
    /// User and password.
    pub login: Option<(String, Redacted<String>)>,
    /// The sender.
    pub from: Mailbox,
    /// The recipients.
    pub to: Vec<Mailbox>,
}

/// How a connection to a mail server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailTls {
    /// Not at all: a server on this machine.
    None,
    /// STARTTLS, required.
    StartTls,
    /// TLS from the first byte.
    Wrapped,
}

/// Why alerts cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AlertError {
    /// The mail server's name is none.
    #[error("the mail server cannot be used: {0}")]
    Mail(#[from] lettre::transport::smtp::Error),
    /// Nobody would get the mail.
    #[error("mail needs at least one recipient")]
    NoRecipient,
    /// The webhook's address cannot be used.
    #[error("the webhook cannot be used; write it as https://HOST/PATH")]
    Webhook,
    /// The file of authorities cannot be used.
    #[error("{path} cannot be used for alerts: {source}")]
    Authorities {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// How a test of one way went.
#[derive(Debug)]
pub struct Tested {
    /// `webhook` or `mail`.
    pub way: &'static str,
    /// Nothing, or why the message was not taken.
    pub result: Result<(), String>,
}

/// The ways there are.
#[derive(Debug)]
pub struct Alerts {
    ways: Vec<mpsc::Sender<Arc<[Notice]>>>,
    counts: Arc<Counts>,
    tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Counts {
    told: AtomicU64,
    lost: AtomicU64,
}

impl Alerts {
    /// Prepares the ways; nothing is sent yet. `sender` is how the director and its service are called.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn start(config: &AlertConfig, sender: &str) -> Result<Self, AlertError> {
        let counts = Arc::new(Counts::default());
        let (mut queues, mut tasks) = (Vec::new(), JoinSet::new());
        for way in ways(config, sender)? {
            let (queue, waiting) = mpsc::channel(QUEUE);
            queues.push(queue);
            tasks.spawn(deliver(way, waiting, config.tries, Arc::clone(&counts)));
        }
        Ok(Self { ways: queues, counts, tasks })
    }

    /// Tells; returns at once.
    pub fn tell(&self, notices: &[Notice]) {
        let notices: Arc<[Notice]> = notices.into();
        for way in &self.ways {
            if way.try_send(Arc::clone(&notices)).is_err() {
                self.counts.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Ends when what waits is told, or after this time.
    pub async fn finish(mut self, patience: Duration) {
        self.ways.clear();
        let told = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(patience, told).await;
    }

    /// Messages that one of the ways did not take.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.counts.lost.load(Ordering::Relaxed)
    }

    /// Messages that one of the ways took.
    #[must_use]
    pub fn told(&self) -> u64 {
        self.counts.told.load(Ordering::Relaxed)
    }

    /// Sends one message through each way, once, and says how that went.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub async fn test(config: &AlertConfig, sender: &str) -> Result<Vec<Tested>, AlertError> {
        let notice = Notice {
            key: "test".into(),
            severity: Severity::Warning,
            what: What::Raised,
            text: "this is a test: nothing is wrong, and alerts reach you".into(),
        };
        let (ways, patience) = (ways(config, sender)?, config.tries.patience);
        let tests = ways.iter().map(async |way| Tested {
            way: way.name(),
            result: match way.attempt(std::slice::from_ref(&notice), patience).await {
                Outcome::Told => Ok(()),
                Outcome::Failed(why, _) | Outcome::Refused(why) => Err(why),
            },
        });
        Ok(futures_util::future::join_all(tests).await)
    }
}

fn ways(config: &AlertConfig, sender: &str) -> Result<Vec<Way>, AlertError> {
    let authorities = match &config.ca_file {
        None => Vec::new(),
        Some(path) => {
            let failed = |source| AlertError::Authorities { path: path.display().to_string(), source };
            let pem = std::fs::read(path).map_err(failed)?;
            let none =
                || failed(std::io::Error::new(std::io::ErrorKind::InvalidData, "no certificate in it"));
            let found: Vec<_> = CertificateDer::pem_slice_iter(&pem).flatten().collect();
            if found.is_empty() {
                return Err(none());
            }
            found
        }
    };
    let mut ways = Vec::new();
    if let Some(url) = &config.webhook {
        ways.push(Way::Webhook(Webhook::new(url, sender, &authorities)?));
    }
    if let Some(mail) = &config.mail {
        ways.push(Way::Mail(Post::new(mail, sender, &authorities, config.tries.patience)?));
    }
    Ok(ways)
}

enum Way {
    Webhook(Webhook),
    Mail(Post),
}

/// What became of a try.
enum Outcome {
    Told,
    /// Later perhaps, and not before this has passed.
    Failed(String, Option<Duration>),
    /// Never.
    Refused(String),
}

impl Way {
    const fn name(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::Mail(_) => "mail",
        }
    }

    async fn attempt(&self, notices: &[Notice], patience: Duration) -> Outcome {
        let trying = async {
            match self {
                Self::Webhook(hook) => hook.send(notices).await,
                Self::Mail(post) => post.send(notices).await,
            }
        };
        let tried = tokio::time::timeout(patience, trying).await;
        tried.unwrap_or_else(|_| Outcome::Failed("no answer in time".into(), None))
    }
}

async fn deliver(way: Way, mut waiting: mpsc::Receiver<Arc<[Notice]>>, tries: Tries, counts: Arc<Counts>) {
    while let Some(first) = waiting.recv().await {
        let (mut notices, mut messages) = (first.to_vec(), 1);
        let mut pause = tries.pause;
        for attempt in 1..=tries.most.max(1) {
            // What has come since goes along: after an outage one message is read, sixty are not.
            while notices.len() < MOST_TOGETHER
                && let Ok(more) = waiting.try_recv()
            {
                notices.extend_from_slice(&more);
                messages += 1;
            }
            let (why, wait) = match way.attempt(&notices, tries.patience).await {
                Outcome::Told => {
                    counts.told.fetch_add(messages, Ordering::Relaxed);
                    break;
                }
                Outcome::Failed(why, wait) if attempt < tries.most => (why, wait),
                Outcome::Failed(why, _) | Outcome::Refused(why) => {
                    counts.lost.fetch_add(messages, Ordering::Relaxed);
                    tracing::error!(way = way.name(), messages, why, "an alert could not be sent");
                    break;
                }
            };
            tracing::warn!(way = way.name(), why, attempt, "an alert could not be sent yet");
            tokio::time::sleep(wait.map_or(pause, |wait| wait.max(pause)).min(LONGEST_PAUSE)).await;
            pause = pause.saturating_mul(2);
        }
    }
}

struct Webhook {
    url: reqwest::Url,
    client: reqwest::Client,
    sender: String,
}

impl Webhook {
    fn new(
        url: &Redacted<String>,
        sender: &str,
        authorities: &[CertificateDer<'static>],
    ) -> Result<Self, AlertError> {
        let url: reqwest::Url = url.reveal().parse().map_err(|_| AlertError::Webhook)?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(AlertError::Webhook);
        }
        // The client ends the process without one. That there is one already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
        for authority in authorities {
            let authority = reqwest::Certificate::from_der(authority).map_err(|_| AlertError::Webhook)?;
            client = client.add_root_certificate(authority);
        }
        let client = client.build().map_err(|_| AlertError::Webhook)?;
        Ok(Self { url, client, sender: sender.to_owned() })
    }

    async fn send(&self, notices: &[Notice]) -> Outcome {
        // `text` is what chat services show.
        let body =
            json!({ "sender": self.sender, "text": subject(&self.sender, notices), "notices": notices });
        // The URL is a secret: an error tells its kind only.
        match self.client.post(self.url.clone()).json(&body).send().await {
            Ok(response) if response.status().is_success() => Outcome::Told,
            Ok(response) => {
                let (status, wait) = (response.status(), retry_after(response.headers()));
                let told = format!("the webhook answered {status}");
                if status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429) {
                    Outcome::Failed(told, wait)
                } else {
                    Outcome::Refused(told)
                }
            }
            Err(error) if error.is_connect() => Outcome::Failed("the webhook cannot be reached".into(), None),
            Err(_) => Outcome::Failed("the webhook did not answer".into(), None),
        }
    }
}

/// How long the other side wants to be left alone: seconds, or a date.
fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let text = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok()
}

struct Post {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    to: Vec<Mailbox>,
    sender: String,
}

impl Post {
    fn new(
        config: &MailConfig,
        sender: &str,
        authorities: &[CertificateDer<'static>],
        patience: Duration,
    ) -> Result<Self, AlertError> {
        if config.to.is_empty() {
            return Err(AlertError::NoRecipient);
        }
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&config.host)
            .port(config.port)
            .timeout(Some(patience));
        if config.tls != MailTls::None {
            let mut parameters = TlsParameters::builder(config.host.clone());
            for authority in authorities {
                let authority = Certificate::from_der(authority.to_vec())?;
                parameters = parameters.add_root_certificate(authority);
            }
            let parameters = parameters.build_rustls()?;
            builder = builder.tls(match config.tls {
                MailTls::Wrapped => Tls::Wrapper(parameters),
                // Never without: whoever takes the offer out of the answer would read the password.
                _ => Tls::Required(parameters),
            });
        }
        if let Some((user, password)) = &config.login {
            builder = builder.credentials(Credentials::new(user.clone(), password.reveal().clone()));
        }
        let (from, to) = (config.from.clone(), config.to.clone());
        Ok(Self { transport: builder.build(), from, to, sender: sender.to_owned() })
    }

    async fn send(&self, notices: &[Notice]) -> Outcome {
        let mut message = Message::builder()
            .from(self.from.clone())
            .subject(subject(&self.sender, notices))
            .message_id(None)
            .header(MIME_VERSION_1_0)
            .header(ContentType::TEXT_PLAIN);
        for to in &self.to {
            message = message.to(to.clone());
        }
        let message = match message.body(text(notices)) {
            Ok(message) => message,
            Err(error) => return Outcome::Refused(error.to_string()),
        };
        match self.transport.send(message).await {
            Ok(_) => Outcome::Told,
            // A server that is away is neither permanent nor transient to the library.
            Err(error) if error.is_permanent() => Outcome::Refused(said(&error)),
            Err(error) => Outcome::Failed(said(&error), None),
        }
    }
}

/// What a mail server said, for a log: its words are its own, and some repeat what was sent to them.
fn said(error: &lettre::transport::smtp::Error) -> String {
    let kind = match error.status() {
        Some(code) => format!("the mail server answered {code}"),
        None if error.is_timeout() => "the mail server did not answer in time".into(),
        None if error.is_tls() => "the mail server's certificate is not accepted".into(),
        None => "the mail server cannot be reached".into(),
    };
    match std::error::Error::source(error) {
        // The causes of what failed here are ours.
        Some(source) if error.status().is_none() => format!("{kind}: {source}"),
        _ => kind,
    }
}

/// One line that says the most important.
fn subject(sender: &str, notices: &[Notice]) -> String {
    // Of several as bad the first.
    let worst = notices.iter().rev().filter(|n| n.what != What::Cleared).max_by_key(|n| n.severity);
    let first = worst.or_else(|| notices.first());
    let more = notices.len().saturating_sub(1);
    let mark = match worst.map(|notice| notice.severity) {
        Some(Severity::Critical) => "critical: ",
        Some(Severity::Warning) => "warning: ",
        None => "over: ",
    };
    let text = first.map_or("", |notice| notice.text.as_str());
    let and = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    let short: String = text.chars().take(MAX_SUBJECT).collect();
    let cut = if short.len() < text.len() { "…" } else { "" };
    // No line breaks: a subject is one line.
    one_line(&format!("[{sender}] {mark}{short}{cut}{and}"))
}

fn text(notices: &[Notice]) -> String {
    let line = |notice: &Notice| {
        let what = match notice.what {
            What::Raised => "BEGUN",
            What::Reminder => "GOES ON",
            What::Cleared => "OVER",
            What::Flapping => "COMES AND GOES (nothing more is said until it is steady)",
        };
        format!("{what}: {}\n", one_line(&notice.text))
    };
    notices.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn notice(text: &str, severity: Severity, what: What) -> Notice {
        Notice { key: text.into(), severity, what, text: text.into() }
    }

    #[test]
    fn the_subject_says_the_worst_in_one_line() {
        let warning = notice("the array is at its limit", Severity::Warning, What::Raised);
        let lost = notice("otter\r\nBcc: x does not answer", Severity::Critical, What::Raised);
        let back = notice("lynx is back", Severity::Critical, What::Cleared);
        assert_eq!(
            subject("cache", &[warning.clone(), lost.clone(), back.clone()]),
            "[cache] critical: otter  Bcc: x does not answer (and 2 more)"
        );
        assert_eq!(subject("cache", std::slice::from_ref(&back)), "[cache] over: lynx is back");
        assert_eq!(text(&[warning, back]), "BEGUN: the array is at its limit\nOVER: lynx is back\n");
    }
}
