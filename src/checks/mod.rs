//! The self-test: is everything there that rezcache needs, and what to do where it is not. `rezcache
//! doctor` shows it on the terminal, the proxy on its page.
//!
//! Each check looks at one thing and ends as a [`CheckResult`]. Looking takes a limited time and changes
//! nothing; what it means is said by functions beside, called `judge…`, which know nothing but what was
//! seen. Texts of others (a grid's, a server's) are shown only in part and without control characters.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use crate::client::address::ServerAddress;
use crate::redact::Redacted;
use crate::session::reach::AddressBlock;

mod clock;
mod folder;
mod grid;
mod machine;
mod running;
mod service;
mod web;

/// What takes longer than this is given up, and said so.
const LIMIT: Duration = Duration::from_secs(14);

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

/// Looks at everything, in less than 15 seconds, and changes nothing.
pub async fn run(setup: &Setup) -> Vec<CheckResult> {
    if !setup.config_problems.is_empty() {
        return without_configuration(setup).await;
    }
    let own: Vec<SocketAddr> =
        setup.grids.iter().filter_map(|grid| grid.listen).chain(setup.control).collect();
    let here = async {
        let page = running::page(setup.control).await;
        let answers = setup.control.is_some().then_some(running::is_ours(&page));
        let folder = {
            let setup = setup.clone();
            tokio::task::spawn_blocking(move || folder::look(&setup, answers))
        };
        let ports = join_all(setup.grids.iter().map(|grid| running::port(grid, &page, setup.inside)));
        let (folder, ports) = tokio::join!(folder, ports);
        let mut results = folder.unwrap_or_default();
        results.extend(setup.ports_problem.iter().map(|problem| {
            let advice = "Restore the file ports.json in the data folder, or delete it: then every grid gets a new port, and \
                          viewers ask for its password once more.";
            CheckResult::failed("ports", format!("Which port each grid has is not known: {problem}."), advice)
        }));
        results.extend(ports.into_iter().flatten());
        results.push(running::judge_page(&page, setup.control, setup.inside));
        results.push(running::judge_uploads(&page));
        results
    };
    let grids = join_all(setup.grids.iter().map(|grid| async {
        let late = ["grid_name", "grid_connection", "grid_info"];
        let late = || (in_time_not(&late, Some(&grid.name)), None);
        within(grid::look(grid, &own), late).await
    }));
    let service = async {
        match &setup.service {
            Some(service) => {
                let late = || (in_time_not(&["service_https"], None), None);
                within(service::look(service, &setup.data_dir, now()), late).await
            }
            None => (service::none(), None),
        }
    };
    let late = || in_time_not(&["data_dir"], None);
    let (here, grids, (service, service_clock), udp, localhost) =
        tokio::join!(within(here, late), grids, service, machine::udp(), machine::localhost());

    let mut results = vec![configuration(setup)];
    results.extend(here);
    results.extend([udp, localhost, machine::environment(), machine::files()]);
    let mut readings = Vec::new();
    for (found, reading) in grids {
        results.extend(found);
        readings.extend(reading);
    }
    results.extend(service);
    readings.extend(service_clock);
    results.push(clock::judge(&readings));
    results
}

/// What can be looked at when nothing is known of what the user wants.
async fn without_configuration(setup: &Setup) -> Vec<CheckResult> {
    let problem = |problem: &String| {
        let advice = "Put that right; `rezcache check-config` says whether all is well. Until then the proxy does not start.";
        CheckResult::failed("configuration", format!("{}.", problem.trim_end_matches('.')), advice)
    };
    let mut results: Vec<_> = setup.config_problems.iter().map(problem).collect();
    let why = "The configuration must be put right first.";
    results.extend(
        ["data_dir", "page", "grid_name", "service_name"].map(|name| CheckResult::skipped(name, why)),
    );
    let (udp, localhost) = tokio::join!(machine::udp(), machine::localhost());
    results.extend([udp, localhost, machine::environment(), machine::files()]);
    results
}

fn configuration(setup: &Setup) -> CheckResult {
    let from = setup.config_file.as_ref().map_or_else(
        || "There is no configuration file, and none is needed".to_owned(),
        |file| format!("The configuration {} is in order", file.display()),
    );
    if setup.grids.is_empty() {
        let advice = "Give the options that you start the proxy with here too, such as --grid ADDRESS, or write the grid into \
                      the configuration file.";
        return CheckResult::warning(
            "configuration",
            format!("{from}; but no grid is named, so none was looked at."),
            advice,
        );
    }
    CheckResult::ok("configuration", format!("{from}."))
}

async fn within<T>(work: impl Future<Output = T>, late: impl FnOnce() -> T) -> T {
    match tokio::time::timeout(LIMIT, work).await {
        Ok(done) => done,
        Err(_) => late(),
    }
}

fn in_time_not(names: &[&str], about: Option<&str>) -> Vec<CheckResult> {
    let advice = "This computer, its disk or its network is very slow now. Run the test once more; if it stays so, restart the computer.";
    let result = |name: &&str| {
        let result = CheckResult::failed(name, "Looking at this took too long, and was given up.", advice);
        CheckResult { about: about.map(str::to_owned), ..result }
    };
    names.iter().map(result).collect()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
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
        assert_eq!(of(std::slice::from_ref(&ok)), (Outcome::Ok, "Everything is as it should be.".into()));
        let one = "It works; 1 thing could be better.";
        assert_eq!(of(&[warning.clone(), ok]), (Outcome::Warning, one.into()));
        let all = "2 things must be put right, and 1 thing could be better.";
        assert_eq!(of(&[failed.clone(), warning, failed]), (Outcome::Failed, all.into()));
    }
}
