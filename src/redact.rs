//! Keeps secrets out of logs and error texts.
//!
//! Capability and seed URLs are bearer secrets: whoever holds one acts as the logged-in avatar.
//! Wrapped in [`Redacted`], they can be carried through code that logs or formats its values.

use std::fmt;

/// A value that is never shown: both `Debug` and `Display` print a fixed mask.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Redacted<T>(T);

impl<T> Redacted<T> {
    /// Wraps a secret.
    pub const fn new(secret: T) -> Self {
        Self(secret)
    }

    /// The secret itself, for the place that has to use it. Never format the result.
    pub const fn reveal(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<T> fmt::Display for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::Redacted;

    #[test]
    fn a_secret_is_in_neither_form() {
        let secret = Redacted::new("http://sim.example/CAPS/6f1c1b9e");
        assert_eq!(format!("{secret:?} {secret}"), "[redacted] [redacted]");
        assert!(secret.reveal().contains("6f1c1b9e"));
    }
}
