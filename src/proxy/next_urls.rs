//! Where a login goes on after the grid said `indeterminate`: short-lived stand-ins for `next_url`.

use std::collections::VecDeque;
use std::sync::Mutex;

use http::Uri;

use crate::redact::Redacted;

/// More logins than this are never half done at once; the oldest gives way.
const MAX_PENDING: usize = 64;

/// The pending continuations.
#[derive(Default)]
pub(super) struct NextUrls(Mutex<VecDeque<(String, Redacted<Uri>)>>);

impl NextUrls {
    /// A path on our port that stands for `url` from now on.
    pub(super) fn stand_in(&self, url: Uri) -> String {
        let token = format!("{:032x}", rand::random::<u128>());
        let path = format!("login/{token}");
        let mut pending = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if pending.len() >= MAX_PENDING {
            pending.pop_front();
        }
        pending.push_back((token, Redacted::new(url)));
        path
    }

    /// The URL behind a stand-in. It stays: a viewer may send its login twice.
    pub(super) fn get(&self, token: &str) -> Option<Uri> {
        let pending = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        pending.iter().find(|(known, _)| known == token).map(|(_, url)| url.reveal().clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{MAX_PENDING, NextUrls};

    #[test]
    fn the_oldest_gives_way() {
        let urls = NextUrls::default();
        let uri = |n: usize| format!("http://grid.example/{n}").parse::<http::Uri>().unwrap();
        let first = urls.stand_in(uri(0));
        let token = first.strip_prefix("login/").unwrap();
        assert_eq!(urls.get(token), Some(uri(0)));
        assert_eq!(urls.get("0"), None);
        for n in 0..MAX_PENDING {
            urls.stand_in(uri(n));
        }
        assert_eq!(urls.get(token), None);
    }
}
