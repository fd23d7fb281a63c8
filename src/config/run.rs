//! What `run` needs beside the proxy's own settings.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::RunFlags;
use super::file::FileValues;
use super::value::{Checker, Given, boolean};
use crate::viewers::Kind;

/// How long a login may take to come after a launcher has ended, unless the user says otherwise.
pub const DEFAULT_LOGIN_GRACE: &str = "60s";

/// What `run` needs, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunSettings {
    /// The viewer as the user named it: a kind, a name or a path.
    pub viewer: Option<String>,
    /// Its kind, when its name does not tell.
    pub viewer_kind: Option<Kind>,
    /// Whether to do without the viewer rather than without the proxy.
    pub strict: bool,
    /// How long the proxy waits for a login after a launcher has ended.
    pub login_grace: Duration,
}

pub(super) fn resolve(
    flags: &RunFlags,
    file: &FileValues,
    path: Option<&Path>,
    check: &mut Checker,
) -> Option<RunSettings> {
    let viewer_kind =
        match Given::flag("viewer-kind", flags.viewer_kind.as_ref()).or(file.run.viewer_kind.as_ref()).0 {
            Some(given) => check.value(&given, str::parse).map(Some),
            None => Some(None),
        };
    let strict = match flags.strict {
        Some(strict) => Some(strict),
        None => Given(file.run.strict.clone()).or_default("false", check, boolean),
    };
    let login_grace = Given::flag("login-grace", flags.login_grace.as_ref())
        .or(file.run.login_grace.as_ref())
        .or_default(DEFAULT_LOGIN_GRACE, check, span);
    let in_file = file.run.viewer.as_ref().map(|value| {
        // A path there is relative to the file; a kind or a name stays as it is.
        let is_path = PathBuf::from(&value.text).components().count() > 1;
        if is_path { value.path(path).to_string_lossy().into_owned() } else { value.text.clone() }
    });
    Some(RunSettings {
        viewer: flags.viewer.clone().or(in_file),
        viewer_kind: viewer_kind?,
        strict: strict?,
        login_grace: login_grace?,
    })
}

/// `90s`, `2m`, `0`.
fn span(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "" | "s" => Some(1),
        "m" | "min" => Some(60),
        _ => None,
    };
    let seconds = number.parse::<u64>().ok().zip(seconds).and_then(|(number, unit)| number.checked_mul(unit));
    match seconds.filter(|seconds| *seconds <= 3600) {
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => Err(format!("{text:?} is no time such as 90s or 2m, of at most an hour")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, span};

    #[test]
    fn times_are_read_and_bounded() {
        for (text, seconds) in
            [("0", Some(0)), ("90s", Some(90)), ("2m", Some(120)), ("61m", None), ("", None), ("1h", None)]
        {
            assert_eq!(span(text).ok(), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
