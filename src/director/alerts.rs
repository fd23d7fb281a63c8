//! Telling the operators: a webhook that gets JSON, and mail. Each way has its own queue and its own patience, so that
//! a dead mail server does not hold up the webhook. Delivery is tried again, with growing pauses, for a while; what is
//! then still not told is counted and logged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::fleet::notices::{Notice, Severity, What};
use crate::redact::Redacted;

/// Messages that wait for one way.
const QUEUE: usize = 64;
/// First pause after a failure; doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Tries of one message: the last pause is about an hour.
const TRIES: u32 = 12;
/// One try may take this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whom to tell, and how.
#[derive(Clone, Debug, Default)]
pub struct AlertConfig {
    /// A URL that takes JSON by POST. It often holds a secret.
    pub webhook: Option<Redacted<String>>,
    /// Mail.
    pub mail: Option<MailConfig>,
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
pub enum AlertError {
    /// The mail server's name is none.
    #[error("the mail server cannot be used: {0}")]
    Mail(#[from] lettre::transport::smtp::Error),
    /// The webhook's address cannot be used.
    #[error("the webhook cannot be used; write it as https://HOST/PATH")]
    Webhook,
}

/// The ways there are.
#[derive(Debug)]
pub struct Alerts {
    ways: Vec<mpsc::Sender<Arc<[Notice]>>>,
    lost: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Alerts {
    /// Prepares the ways; nothing is sent yet. `sender` is how the director and its service are called.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn start(config: &AlertConfig, sender: &str) -> Result<Self, AlertError> {
        let lost = Arc::new(AtomicU64::new(0));
        let (mut ways, mut tasks) = (Vec::new(), JoinSet::new());
        if let Some(url) = &config.webhook {
            let hook = Webhook::new(url, sender)?;
            let (way, waiting) = mpsc::channel(QUEUE);
            ways.push(way);
            tasks.spawn(deliver(Way::Webhook(hook), waiting, Arc::clone(&lost)));
        }
        if let Some(mail) = &config.mail {
            let post = Post::new(mail, sender)?;
            let (way, waiting) = mpsc::channel(QUEUE);
            ways.push(way);
            tasks.spawn(deliver(Way::Mail(post), waiting, Arc::clone(&lost)));
        }
        Ok(Self { ways, lost, _tasks: tasks })
    }

    /// Tells; returns at once.
    pub fn tell(&self, notices: &[Notice]) {
        let notices: Arc<[Notice]> = notices.into();
        for way in &self.ways {
            if way.try_send(Arc::clone(&notices)).is_err() {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Messages that one of the ways did not take.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

enum Way {
    Webhook(Webhook),
    Mail(Post),
}

/// What became of a try.
enum Outcome {
    Told,
    /// Later perhaps.
    Failed(String),
    /// Never.
    Refused(String),
}

async fn deliver(way: Way, mut waiting: mpsc::Receiver<Arc<[Notice]>>, lost: Arc<AtomicU64>) {
    while let Some(notices) = waiting.recv().await {
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=TRIES {
            let tried = tokio::time::timeout(PATIENCE, async {
                match &way {
                    Way::Webhook(hook) => hook.send(&notices).await,
                    Way::Mail(post) => post.send(&notices).await,
                }
            });
            let why = match tried.await.unwrap_or_else(|_| Outcome::Failed("no answer in time".into())) {
                Outcome::Told => break,
                Outcome::Failed(why) if attempt < TRIES => why,
                Outcome::Failed(why) | Outcome::Refused(why) => {
                    lost.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(why, "an alert could not be sent");
                    break;
                }
            };
            tracing::warn!(why, attempt, "an alert could not be sent yet");
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

struct Webhook {
    url: reqwest::Url,
    client: reqwest::Client,
    sender: String,
}

impl Webhook {
    fn new(url: &Redacted<String>, sender: &str) -> Result<Self, AlertError> {
        let url: reqwest::Url = url.reveal().parse().map_err(|_| AlertError::Webhook)?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(AlertError::Webhook);
        }
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|_| AlertError::Webhook)?;
        Ok(Self { url, client, sender: sender.to_owned() })
    }

    async fn send(&self, notices: &[Notice]) -> Outcome {
        // `text` is what chat services show.
        let body =
            json!({ "sender": self.sender, "text": subject(&self.sender, notices), "notices": notices });
        // The URL is a secret: an error tells its kind only.
        match self.client.post(self.url.clone()).json(&body).send().await {
            Ok(response) if response.status().is_success() => Outcome::Told,
            Ok(response) if response.status().is_server_error() || response.status().as_u16() == 429 => {
                Outcome::Failed(format!("the webhook answered {}", response.status()))
            }
            Ok(response) => Outcome::Refused(format!("the webhook answered {}", response.status())),
            Err(error) if error.is_connect() => Outcome::Failed("the webhook cannot be reached".into()),
            Err(_) => Outcome::Failed("the webhook did not answer".into()),
        }
    }
}

struct Post {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    to: Vec<Mailbox>,
    sender: String,
}

impl Post {
    fn new(config: &MailConfig, sender: &str) -> Result<Self, AlertError> {
        let mut builder = match config.tls {
            MailTls::None => AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&config.host),
            MailTls::StartTls => AsyncSmtpTransport::<Tokio1Executor>::starttls_relay(&config.host)?,
            MailTls::Wrapped => AsyncSmtpTransport::<Tokio1Executor>::relay(&config.host)?,
        };
        builder = builder.port(config.port).timeout(Some(PATIENCE));
        if let Some((user, password)) = &config.login {
            builder = builder.credentials(Credentials::new(user.clone(), password.reveal().clone()));
        }
        let (from, to) = (config.from.clone(), config.to.clone());
        Ok(Self { transport: builder.build(), from, to, sender: sender.to_owned() })
    }

    async fn send(&self, notices: &[Notice]) -> Outcome {
        let mut message = Message::builder().from(self.from.clone()).subject(subject(&self.sender, notices));
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
            Err(error) if error.is_permanent() => Outcome::Refused(error.to_string()),
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }
}

/// One line that says the most important.
fn subject(sender: &str, notices: &[Notice]) -> String {
    let worst = notices.iter().filter(|n| n.what != What::Cleared).max_by_key(|n| n.severity);
    let first = worst.or_else(|| notices.first());
    let more = notices.len().saturating_sub(1);
    let mark = match worst.map(|notice| notice.severity) {
        Some(Severity::Critical) => "critical: ",
        Some(Severity::Warning) => "warning: ",
        None => "over: ",
    };
    let text = first.map_or("", |notice| notice.text.as_str());
    let and = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    // No line breaks: a subject is one line.
    format!("[{sender}] {mark}{text}{and}").replace(['\r', '\n'], " ")
}

fn text(notices: &[Notice]) -> String {
    let line = |notice: &Notice| {
        let what = match notice.what {
            What::Raised => "BEGUN",
            What::Reminder => "GOES ON",
            What::Cleared => "OVER",
            What::Flapping => "COMES AND GOES (nothing more is said until it is steady)",
        };
        format!("{what}: {}\n", notice.text)
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
