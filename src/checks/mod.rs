//! The self-test: is everything there that rezcache needs, and what to do where it is not. `rezcache
//! doctor` shows it on the terminal, the proxy on its page.
//!
//! Each check looks at one thing and ends as a [`CheckResult`]. Looking is done here and in the files
//! beside, within a limit of time and without changing anything; what it means is said in `judge`,
//! which only knows what was seen.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::client::address::ServerAddress;
use crate::redact::Redacted;
use crate::session::reach::AddressBlock;

/// What is to be looked at.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Whether the proxy itself looks: then its ports are taken by itself.
    pub inside: bool,
    /// What is wrong with the configuration, each in a sentence; then nothing else here counts.
    pub config_problems: Vec<String>,
    /// Where the configuration was read from, if from a file.
    pub config_file: Option<PathBuf>,
    /// Where rezcache keeps what it learns.
    pub data_dir: PathBuf,
    /// The most bytes the store may take.
    pub cache_bytes: u64,
    /// The control port.
    pub control: Option<SocketAddr>,
    /// The grids.
    pub grids: Vec<GridSetup>,
    /// Why the grids' ports are not known, in the words of whoever looked.
    pub ports_problem: Option<String>,
    /// The shared cache.
    pub service: Option<ServiceSetup>,
}

/// One grid.
#[derive(Clone, Debug)]
pub struct GridSetup {
    /// What the user calls it.
    pub name: String,
    /// Its login address.
    pub uri: http::Uri,
    /// Where viewers log in, when that is known.
    pub listen: Option<SocketAddr>,
    /// Whether viewers have known this port before.
    pub remembered: bool,
    /// Address blocks that it may lead to beyond the rule.
    pub allow: Vec<AddressBlock>,
    /// Additional certificate authorities.
    pub ca_file: Option<PathBuf>,
}

/// The shared cache.
#[derive(Clone, Debug)]
pub struct ServiceSetup {
    /// Where it is.
    pub address: ServerAddress,
    /// The token that an operator gave.
    pub token: Option<Redacted<String>>,
}

/// Looks at everything, in less than 15 seconds.
pub async fn run(setup: &Setup) -> Vec<CheckResult> {
    let _ = setup;
    Vec::new()
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Not looked at; why not is what was seen.
    Skipped,
    /// As it should be.
    Ok,
    /// It works, but less well than it could, or not for long.
    Warning,
    /// It does not work.
    Failed,
}

/// What one check found. The JSON of `rezcache doctor --json` is made of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// A label that stays the same, such as `grid_answer`.
    pub name: String,
    /// What it is about, where there may be several: a grid's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// What was seen, in one plain sentence.
    pub seen: String,
    /// What to do, in one or two plain sentences; there for every warning and failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl CheckResult {
    fn new(name: &str, outcome: Outcome, seen: impl Into<String>) -> Self {
        Self { name: name.to_owned(), about: None, outcome, seen: seen.into(), advice: None }
    }

    /// All is well.
    #[must_use]
    pub fn ok(name: &str, seen: impl Into<String>) -> Self {
        Self::new(name, Outcome::Ok, seen)
    }

    /// Not looked at, because of this.
    #[must_use]
    pub fn skipped(name: &str, why: impl Into<String>) -> Self {
        Self::new(name, Outcome::Skipped, why)
    }

    /// It could be better.
    #[must_use]
    pub fn warning(name: &str, seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..Self::new(name, Outcome::Warning, seen) }
    }

    /// It does not work.
    #[must_use]
    pub fn failed(name: &str, seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..Self::new(name, Outcome::Failed, seen) }
    }

    /// The same, about this grid.
    #[must_use]
    pub fn about(self, what: &str) -> Self {
        Self { about: Some(what.to_owned()), ..self }
    }
}

/// All results in the order of the checks, and what they come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The version that looked.
    pub version: String,
    /// The worst of the outcomes.
    pub outcome: Outcome,
    /// What that means, in a sentence.
    pub summary: String,
    /// The results.
    pub checks: Vec<CheckResult>,
}

impl Report {
    /// A report of these results.
    #[must_use]
    pub fn of(checks: Vec<CheckResult>) -> Self {
        let outcome = checks.iter().map(|check| check.outcome).max().unwrap_or(Outcome::Skipped);
        let number = |outcome| checks.iter().filter(|check| check.outcome == outcome).count();
        let (failed, warnings) = (number(Outcome::Failed), number(Outcome::Warning));
        let things =
            |number: usize| if number == 1 { "1 thing".to_owned() } else { format!("{number} things") };
        let summary = match (failed, warnings) {
            (0, 0) => "Everything is as it should be.".to_owned(),
            (0, _) => format!("It works; {} could be better.", things(warnings)),
            (_, 0) => format!("{} must be put right.", things(failed)),
            _ => format!("{} must be put right, and {} could be better.", things(failed), things(warnings)),
        };
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), outcome, summary, checks }
    }
}

#[cfg(test)]
mod tests {
    use super::{CheckResult, Outcome, Report};

    #[test]
    fn a_report_says_what_the_worst_result_is_and_how_many_there_are() {
        let of = |checks: &[CheckResult]| {
            let report = Report::of(checks.to_vec());
            (report.outcome, report.summary)
        };
        let ok = CheckResult::ok("a", "x");
        let warning = CheckResult::warning("b", "x", "y");
        let failed = CheckResult::failed("c", "x", "y");
        assert_eq!(of(&[ok.clone()]), (Outcome::Ok, "Everything is as it should be.".into()));
        let one = "It works; 1 thing could be better.";
        assert_eq!(of(&[warning.clone(), ok]), (Outcome::Warning, one.into()));
        let all = "2 things must be put right, and 1 thing could be better.";
        assert_eq!(of(&[failed.clone(), warning, failed]), (Outcome::Failed, all.into()));
    }
}
