//! Who the proxy is to a service: the holder of a token that an operator gave, somebody with a key of its
//! own that it enrols on first use, or nobody.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::CallError;
use super::address::ServerAddress;
use super::http::HttpLink;
use crate::redact::Redacted;
use crate::support::private_file;
use crate::token::join::Pin;
use crate::token::{self, SigningKey};

/// The folder of keys within the data directory, one for each service.
const FOLDER: &str = "service-keys";
/// How long a token lives that the proxy signs itself.
const LIFE: u64 = 3600;
/// When the next one is signed.
const RENEW: Duration = Duration::from_secs(2700);
/// How long nothing is tried after an introduction has failed, at first and at most.
const PAUSE: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(3600)];
/// An introduction that is not through by then has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// A file cannot be read or made.
    #[error("cannot use {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file holds something else. The text is not shown.
    #[error("{0} holds no token; it is what `rezcache token new` prints")]
    NotAToken(PathBuf),
    /// The file holds something else. The text is not shown.
    #[error("{0} holds no key; delete it to have a new one made")]
    NotAKey(PathBuf),
}

/// Who the proxy is.
#[derive(Clone)]
pub struct Credentials(Kind);

#[derive(Clone)]
enum Kind {
    Nobody,
    Given { token: Arc<Redacted<String>>, subject: Arc<str> },
    Own(Arc<Own>),
}

/// A key of the proxy's own, and what came of its enrolment.
struct Own {
    key: SigningKey,
    /// What is shown with the key where a household takes members.
    join: Option<Redacted<String>>,
    subject: String,
    /// One introduction at a time.
    introducing: Mutex<()>,
    state: RwLock<State>,
}

#[derive(Clone)]
enum State {
    /// Nothing was tried yet.
    New,
    /// The service takes no keys; it may be open to everybody.
    Nobody,
    Enrolled {
        audience: Arc<str>,
        token: Arc<Redacted<String>>,
        signed: Instant,
        /// By how many seconds the service's clock is ahead of ours.
        ahead: i64,
    },
    Failed {
        error: CallError,
        until: Instant,
        pause: Duration,
    },
}

impl Credentials {
    /// No token at all: for nodes that are open to their network.
    #[must_use]
    pub const fn nobody() -> Self {
        Self(Kind::Nobody)
    }

    /// A token that an operator gave. `None` when the text is none.
    #[must_use]
    pub fn token(text: &str) -> Option<Self> {
        let text = text.trim();
        let subject = token::unverified_subject(text)?.into();
        Some(Self(Kind::Given { token: Arc::new(Redacted::new(text.to_owned())), subject }))
    }

    /// The token in a file.
    ///
    /// # Errors
    /// When the file cannot be read, or holds none.
    pub fn token_file(path: &Path) -> Result<Self, CredentialsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| CredentialsError::File { path: path.to_owned(), source })?;
        Self::token(&text).ok_or_else(|| CredentialsError::NotAToken(path.to_owned()))
    }

    /// A key of our own for this service, kept in the data directory for its owner's eyes only, and made
    /// when there is none. Each service sees another key: two of them cannot tell that we are one.
    ///
    /// # Errors
    /// When the file can be neither read nor written, or holds something else.
    pub fn own(data_dir: &Path, service: &ServerAddress) -> Result<Self, CredentialsError> {
        Self::with_key(data_dir, service.authority().as_bytes(), None)
    }

    /// The same for a household's server, which takes the key in when it is shown this token: once, and over
    /// a connection to whoever has the pinned key. Another line makes another member.
    ///
    /// # Errors
    /// When the file can be neither read nor written, or holds something else.
    pub fn joined(data_dir: &Path, pin: &Pin, token: &Redacted<String>) -> Result<Self, CredentialsError> {
        let name = [pin.as_str(), token.reveal()].join("#");
        Self::with_key(data_dir, name.as_bytes(), Some(token.clone()))
    }

    fn with_key(
        data_dir: &Path,
        name: &[u8],
        join: Option<Redacted<String>>,
    ) -> Result<Self, CredentialsError> {
        let name = blake3::hash(name).to_hex();
        let path = data_dir.join(FOLDER).join(format!("{}.key", name.get(..16).unwrap_or_default()));
        let file = |source| CredentialsError::File { path: path.clone(), source };
        let not_a_key = |_| CredentialsError::NotAKey(path.clone());
        if !path.exists() {
            let made = SigningKey::from_seed(&rand::random()).map_err(not_a_key)?;
            private_file::create(&path, made.pem().reveal().as_bytes()).map_err(file)?;
        }
        // Another start may have been quicker: its file is the one that counts.
        let text = std::fs::read_to_string(&path).map_err(file)?;
        let key = SigningKey::from_pem(&text).map_err(not_a_key)?;
        let subject = token::own_subject(key.public());
        let state = RwLock::new(State::New);
        Ok(Self(Kind::Own(Arc::new(Own { key, join, subject, introducing: Mutex::default(), state }))))
    }

    /// The same where tokens may not be sent: over plain HTTP a given token is an error, and a key of our
    /// own stays at home.
    pub(super) fn without_secrecy(self) -> Result<Self, CallError> {
        match self.0 {
            Kind::Given { .. } => Err(CallError::PlainToken),
            Kind::Own(_) | Kind::Nobody => Ok(Self::nobody()),
        }
    }

    /// The name that proofs are made for; empty while the service knows us by none.
    pub(super) fn principal(&self) -> &str {
        match &self.0 {
            Kind::Nobody => "",
            Kind::Given { subject, .. } => subject,
            Kind::Own(own) if matches!(own.state(), State::Enrolled { .. }) => &own.subject,
            Kind::Own(_) => "",
        }
    }

    /// The token to show now, if any.
    pub(super) fn current(&self) -> Shown {
        match &self.0 {
            Kind::Nobody => Ok(None),
            Kind::Given { token, .. } => Ok(Some(Arc::clone(token))),
            Kind::Own(own) => own.known(),
        }
    }

    /// The service asks for a token, though one was `shown` or not. Whether we have a token now that it did not see: only
    /// who is asked for one introduces himself, so that services open to all are asked nothing else.
    pub(super) async fn recover(&self, http: &HttpLink, shown: bool) -> bool {
        let Kind::Own(own) = &self.0 else { return false };
        match own.state() {
            State::Nobody => return false,
            State::Failed { until, .. } if Instant::now() < until => return false,
            // Another request was faster.
            State::Enrolled { .. } if !shown => return true,
            State::Enrolled { .. } => {
                let reason = "the service does not know this proxy any more".into();
                own.failed(CallError::Refused { status: 401, reason, retry_after: None }, PAUSE[0]);
                return false;
            }
            State::New | State::Failed { .. } => {}
        }
        // On its own: whoever gives up waiting does not break it off for the others.
        let (own, http) = (Arc::clone(own), http.clone());
        tokio::spawn(async move { own.introduce(&http).await }).await.unwrap_or(false)
    }
}

type Shown = Result<Option<Arc<Redacted<String>>>, CallError>;

impl Own {
    fn state(&self) -> State {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, state: State) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn failed(&self, error: CallError, pause: Duration) {
        self.set(State::Failed { error, until: Instant::now() + pause, pause });
    }

    /// What holds without asking the service.
    fn known(&self) -> Shown {
        match self.state() {
            State::New | State::Nobody => Ok(None),
            State::Enrolled { token, signed, .. } if signed.elapsed() < RENEW => Ok(Some(token)),
            State::Enrolled { audience, ahead, .. } => Ok(Some(self.sign(audience, ahead))),
            State::Failed { error: error @ CallError::Refused { .. }, until, .. }
                if Instant::now() < until =>
            {
                Err(error)
            }
            State::Failed { .. } => Ok(None),
        }
    }

    fn sign(&self, audience: Arc<str>, ahead: i64) -> Arc<Redacted<String>> {
        let id = format!("{:032x}", rand::random::<u128>());
        let now = now().saturating_add_signed(ahead);
        let token = token::sign_own(&self.key, &audience, id, now, LIFE);
        let token = Arc::new(Redacted::new(token));
        self.set(State::Enrolled { audience, token: Arc::clone(&token), signed: Instant::now(), ahead });
        token
    }

    /// Whether the service knows us now.
    async fn introduce(&self, http: &HttpLink) -> bool {
        let _one = self.introducing.lock().await;
        match self.state() {
            State::Enrolled { .. } => return true,
            State::Nobody => return false,
            State::Failed { until, .. } if Instant::now() < until => return false,
            State::New | State::Failed { .. } => {}
        }
        let tried = tokio::time::timeout(PATIENCE, self.enrol(http)).await;
        match tried.unwrap_or(Err(CallError::Unreachable)) {
            Ok(None) => self.set(State::Nobody),
            Ok(Some((audience, ahead))) => {
                self.sign(audience, ahead);
                return true;
            }
            Err(error) => {
                let before = match self.state() {
                    State::Failed { pause, .. } => pause * 2,
                    _ => PAUSE[0],
                };
                let asked = match &error {
                    CallError::Busy { retry_after } => *retry_after,
                    CallError::Refused { retry_after, .. } => retry_after.unwrap_or_default(),
                    _ => Duration::ZERO,
                };
                self.failed(error, before.max(asked).clamp(PAUSE[0], PAUSE[1]));
            }
        }
        false
    }

    /// Enrols the key. `None`: the service takes none. Known already is as good as new.
    async fn enrol(&self, http: &HttpLink) -> Result<Option<(Arc<str>, i64)>, CallError> {
        let about = http.json("/v1/service", None, None).await?;
        let says = |word| about.get(word).and_then(Value::as_bool) == Some(true);
        let join = self.join.as_ref().filter(|_| says("join"));
        if join.is_none() && !says("enroll") {
            return Ok(None);
        }
        let ahead = about.get("time").and_then(Value::as_u64).map_or(0, |time| {
            let difference =
                i64::try_from(time).unwrap_or(0).saturating_sub(i64::try_from(now()).unwrap_or(0));
            // What a request takes is no difference of clocks.
            if difference.abs() > 5 { difference } else { 0 }
        });
        let asked = http.json("/v1/enroll", None, None).await?;
        let text = |name: &str| asked.get(name).and_then(Value::as_str).ok_or(CallError::Garbled);
        let (challenge, audience) = (text("challenge")?, text("audience")?);
        let public = self.key.public();
        let signature = self.key.sign(&token::enrolment_message(audience, challenge, public));
        let body = json!({
            "public_key": URL_SAFE_NO_PAD.encode(public),
            "challenge": challenge,
            "signature": URL_SAFE_NO_PAD.encode(signature),
        });
        let enrolled = http.json("/v1/enroll", Some(body), join.map(|token| token.reveal().as_str())).await?;
        if enrolled.get("subject").and_then(Value::as_str) != Some(self.subject.as_str()) {
            return Err(CallError::Garbled);
        }
        Ok(Some((audience.into(), ahead)))
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Whether an answer to an introduction is one.
pub(super) fn is_answer(status: StatusCode) -> bool {
    status == StatusCode::OK || status == StatusCode::CREATED
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Credentials, CredentialsError};

    #[test]
    fn the_key_is_made_once_for_each_service_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let one = "https://one.example".parse().unwrap();
        Credentials::own(folder.path(), &one).unwrap();
        Credentials::own(folder.path(), &one).unwrap();
        Credentials::own(folder.path(), &"https://two.example".parse().unwrap()).unwrap();
        let keys: Vec<_> = std::fs::read_dir(folder.path().join("service-keys")).unwrap().flatten().collect();
        assert_eq!(keys.len(), 2);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert!(keys.iter().all(|key| key.metadata().unwrap().permissions().mode() & 0o777 == 0o600));
        }
        for key in &keys {
            std::fs::write(key.path(), "no key").unwrap();
        }
        let damaged = Credentials::own(folder.path(), &one).err().unwrap();
        assert!(matches!(damaged, CredentialsError::NotAKey(_)) && !damaged.to_string().contains("no key "));
    }

    #[test]
    fn a_token_file_holds_a_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert!(matches!(Credentials::token_file(&path), Err(CredentialsError::File { .. })));
        std::fs::write(&path, "hunter2\n").unwrap();
        let wrong = Credentials::token_file(&path).err().unwrap().to_string();
        assert!(wrong.contains("holds no token") && !wrong.contains("hunter2"));
    }
}
