//! Why a node does not do what it is asked: one value for both faces.

use std::borrow::Cow;

use http::StatusCode;

use crate::wire::frame::Reply;

/// A refusal as strangers may see it: nothing of our inside is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(super) struct Refusal {
    /// The HTTP status.
    pub(super) status: StatusCode,
    /// Why, in a sentence.
    pub(super) reason: Cow<'static, str>,
    /// Seconds until it may be different; 0 when it will not.
    pub(super) retry_after_s: u32,
}

impl Refusal {
    /// A refusal that stays one.
    #[must_use]
    pub(super) const fn new(status: StatusCode, reason: &'static str) -> Self {
        Self { status, reason: Cow::Borrowed(reason), retry_after_s: 0 }
    }

    /// Not now, but perhaps in some seconds.
    #[must_use]
    pub(super) const fn later(status: StatusCode, reason: &'static str, retry_after_s: u32) -> Self {
        Self { status, reason: Cow::Borrowed(reason), retry_after_s }
    }

    /// The store or the catalog does not answer.
    #[must_use]
    pub(super) const fn unavailable() -> Self {
        Self::later(StatusCode::SERVICE_UNAVAILABLE, "the node cannot reach its stores", 5)
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        if refusal.status == StatusCode::SERVICE_UNAVAILABLE {
            return Self::Busy { retry_after_ms: refusal.retry_after_s.max(1).saturating_mul(1000) };
        }
        Self::Refused {
            status: refusal.status.as_u16(),
            retry_after_s: refusal.retry_after_s,
            reason: refusal.reason.into_owned(),
        }
    }
}
