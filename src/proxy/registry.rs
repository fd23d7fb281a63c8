//! The aliases of one grid's port: which loopback URL stands for which capability of which session.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dashmap::DashMap;
use tokio::sync::{mpsc, oneshot};

use super::event_queue::EventQueue;
use crate::grid::Origin;
use crate::redact::Redacted;
use crate::scenes::Visitor;
use crate::session::events::QueueId;
use crate::session::{CapabilityClass, Found, Ticket};

/// 128 random bits: whoever knows them may use the capability, so nobody may guess them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct AliasToken(u128);

impl AliasToken {
    pub(super) fn random() -> Self {
        Self(rand::random())
    }

    /// The token of a path such as `/cap/<32 hex digits>`, and what follows it.
    pub(super) fn split_path(path_and_query: &str) -> Option<(Self, &str)> {
        let rest = path_and_query.strip_prefix(ALIAS_PATH)?;
        let (hex, suffix) = rest.split_at_checked(32)?;
        let lower_hex = hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let bounded = suffix.is_empty() || suffix.starts_with(['/', '?']);
        if !lower_hex || !bounded {
            return None;
        }
        u128::from_str_radix(hex, 16).ok().map(|token| (Self(token), suffix))
    }

    pub(super) fn url(self, authority: &std::net::SocketAddr) -> String {
        format!("http://{authority}{ALIAS_PATH}{:032x}", self.0)
    }
}

const ALIAS_PATH: &str = "/cap/";

/// One capability of one session.
pub(super) struct Alias {
    pub(super) class: CapabilityClass,
    pub(super) url: Redacted<String>,
    pub(super) origin: Origin,
    pub(super) session: Arc<SessionLink>,
    /// Polls in progress and replies not yet delivered, for [`CapabilityClass::EventQueue`].
    pub(super) queue: EventQueue,
}

/// The way from the HTTP side to the task that owns a session.
pub(super) struct SessionLink {
    /// What its login is called in scenes.
    pub(super) visitor: Visitor,
    commands: mpsc::Sender<Command>,
    started: Instant,
    last_used_ms: AtomicU64,
}

/// What the HTTP side asks of a session.
pub(super) enum Command {
    /// Rewrite a seed reply; `None` when nothing in it changes.
    Seed { body: Bytes, answer: oneshot::Sender<Option<Vec<u8>>> },
    /// Rewrite an event-queue reply, and read its id; `None` when nothing in it changes.
    Events { body: Bytes, answer: oneshot::Sender<(Option<Vec<u8>>, Option<QueueId>)> },
    /// What was looked up.
    Found { ticket: Ticket, found: Option<Found> },
}

impl SessionLink {
    pub(super) fn new(commands: mpsc::Sender<Command>, visitor: Visitor) -> Self {
        Self { visitor, commands, started: Instant::now(), last_used_ms: AtomicU64::new(0) }
    }

    /// The viewer used one of the session's capabilities.
    pub(super) fn touch(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_used_ms.store(now, Ordering::Relaxed);
    }

    pub(super) fn last_used(&self) -> Instant {
        self.started + Duration::from_millis(self.last_used_ms.load(Ordering::Relaxed))
    }

    /// Tells the session what was looked up for it.
    pub(super) async fn found(&self, ticket: Ticket, found: Option<Found>) {
        // A session that is over needs no answer.
        let _ = self.commands.send(Command::Found { ticket, found }).await;
    }

    /// Has the session rewrite a seed's reply. An ended session leaves it as it is.
    pub(super) async fn rewrite_seed(&self, body: Bytes) -> Bytes {
        let (answer, rewritten) = oneshot::channel();
        let command = Command::Seed { body: body.clone(), answer };
        if self.commands.send(command).await.is_err() {
            return body;
        }
        rewritten.await.ok().flatten().map_or(body, Bytes::from)
    }

    /// Has the session rewrite an event queue's reply, which also yields the reply's id.
    pub(super) async fn rewrite_events(&self, body: Bytes) -> (Bytes, Option<QueueId>) {
        let (answer, rewritten) = oneshot::channel();
        let command = Command::Events { body: body.clone(), answer };
        if self.commands.send(command).await.is_err() {
            return (body, None);
        }
        let (rewritten, id) = rewritten.await.unwrap_or_default();
        (rewritten.map_or(body, Bytes::from), id)
    }
}

/// All aliases of one grid's port.
#[derive(Default)]
pub(super) struct Registry(DashMap<AliasToken, Arc<Alias>>);

impl Registry {
    pub(super) fn insert(&self, token: AliasToken, alias: Alias) {
        self.0.insert(token, Arc::new(alias));
    }

    pub(super) fn get(&self, token: AliasToken) -> Option<Arc<Alias>> {
        self.0.get(&token).map(|alias| Arc::clone(&alias))
    }

    pub(super) fn remove(&self, token: AliasToken) {
        self.0.remove(&token);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::AliasToken;

    #[test]
    fn an_alias_is_found_in_its_path_with_whatever_the_viewer_appends() {
        let token = AliasToken::random();
        let url = token.url(&"127.0.0.1:9080".parse().unwrap());
        let path = url.strip_prefix("http://127.0.0.1:9080").unwrap();
        for suffix in ["", "/", "/?texture_id=x", "?mesh_id=y"] {
            let whole = format!("{path}{suffix}");
            let (found, rest) = AliasToken::split_path(&whole).unwrap();
            assert!(found == token && rest == suffix);
        }
        for bad in [format!("{path}0"), path[..20].to_owned(), path.to_uppercase(), "/cap/".into()] {
            assert!(AliasToken::split_path(&bad).is_none(), "{bad}");
        }
    }
}
