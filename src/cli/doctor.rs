//! `rezcache doctor`: the self-test on the terminal.

use std::fmt::Write as _;

use clap::Args;

use super::{Outcome, print};
use crate::checks::{self, Report, Setup};
use crate::config::ports::{self, Ports, PortsError};
use crate::config::{Problems, ProxyFlags, Settings};
use crate::proxy::self_test;

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  rezcache doctor --grid http://login.grid.example/
  rezcache doctor --json

Give it the options that you start the proxy with; the proxy may be running or not. It changes nothing,
and takes less than 15 seconds. Exit status: 0 when all is well or only could be better, 1 when something
must be put right.")]
pub(super) struct Arguments {
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten, next_help_heading = "Options of proxy")]
    pub(super) flags: ProxyFlags,
}

/// Looks at everything, with settings that could be loaded or with why not.
pub(super) async fn run(
    arguments: &Arguments,
    settings: Result<Settings, Problems>,
) -> anyhow::Result<Outcome> {
    let setup = match settings {
        Ok(settings) => setup(settings),
        Err(problems) => unreadable(&problems),
    };
    let report = Report::of(checks::run(&setup).await);
    let text = if arguments.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        render(&report, knows_unicode())
    };
    print(&text)?;
    Ok(if report.outcome == checks::Outcome::Failed { Outcome::Failed } else { Outcome::Done })
}

fn unreadable(problems: &Problems) -> Setup {
    Setup {
        inside: false,
        config_problems: problems.lines().map(str::to_owned).collect(),
        config_file: None,
        data_dir: std::path::PathBuf::new(),
        cache_bytes: 0,
        control: None,
        grids: Vec::new(),
        ports_problem: None,
        service: None,
    }
}

fn setup(settings: Settings) -> Setup {
    let Settings { file, data_dir, proxy, .. } = settings;
    let (listen, control) = (proxy.listen, proxy.control);
    let places: Vec<_> = proxy.grids.iter().map(|grid| ports::place(&grid.uri)).collect();
    let is_there = data_dir.is_dir();
    // Nobody's secrets are needed here.
    let config = proxy.into_config(&[], data_dir.clone(), String::new(), String::new(), false);
    let (addresses, remembered, problem) = match Ports::load(&data_dir) {
        Ok(memory) => {
            let remembered: Vec<_> = places.iter().map(|place| memory.remembers(listen, place)).collect();
            let mut memory = memory;
            match memory.assign(listen, true, control, &places, ports::is_free) {
                Ok(addresses) => (addresses, remembered, None),
                Err(error) => (Vec::new(), Vec::new(), Some(error.to_string())),
            }
        }
        Err(PortsError::File { .. }) if !is_there => (Vec::new(), Vec::new(), None),
        Err(PortsError::Damaged { path, .. }) => {
            (Vec::new(), Vec::new(), Some(format!("the file {} is damaged", path.display())))
        }
        Err(error) => (Vec::new(), Vec::new(), Some(error.to_string())),
    };
    let mut setup = self_test::setup(&config, &addresses, control);
    setup.config_file = file;
    setup.ports_problem = problem;
    for (grid, remembered) in setup.grids.iter_mut().zip(remembered) {
        grid.remembered = remembered;
    }
    setup
}

/// Whether signs beyond ASCII arrive as such.
fn knows_unicode() -> bool {
    if cfg!(windows) {
        return std::env::var_os("WT_SESSION").is_some();
    }
    let set =
        ["LC_ALL", "LC_CTYPE", "LANG"].iter().filter_map(std::env::var_os).find(|value| !value.is_empty());
    let set = set.map(|value| value.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    set.contains("utf-8") || set.contains("utf8")
}

fn render(report: &Report, unicode: bool) -> String {
    let mut text = String::new();
    let mut last = String::new();
    for check in &report.checks {
        let sign = match (check.outcome, unicode) {
            (checks::Outcome::Ok, true) => "✓",
            (checks::Outcome::Ok, false) => "+",
            (checks::Outcome::Warning, _) => "!",
            (checks::Outcome::Failed, true) => "✗",
            (checks::Outcome::Failed, false) => "x",
            (checks::Outcome::Skipped, _) => "-",
        };
        let about = check.about.as_ref().map(|about| format!("{about}: ")).unwrap_or_default();
        let line = format!("{sign} {about}{}\n", check.seen);
        // Several things are often not looked at for one reason, which is said once.
        if line == last {
            continue;
        }
        text.push_str(&line);
        last = line;
        if let Some(advice) = &check.advice {
            let _ = writeln!(text, "    {advice}");
        }
    }
    let _ = write!(text, "\n{}\n", report.summary);
    if unicode { text } else { text.replace('…', "...") }
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::checks::{CheckResult, Report};

    #[test]
    fn advice_stands_under_what_is_not_well_and_ascii_is_enough() {
        let report = Report::of(vec![
            CheckResult::ok("a", "Fine."),
            CheckResult::failed("b", "Bad…", "Do this.").about("my grid"),
            CheckResult::warning("c", "So so.", "Do that."),
            CheckResult::skipped("d", "Not looked at."),
        ]);
        assert_eq!(
            render(&report, true),
            "✓ Fine.\n✗ my grid: Bad…\n    Do this.\n! So so.\n    Do that.\n- Not looked at.\n\n\
             1 thing must be put right, and 1 thing could be better.\n"
        );
        assert!(render(&report, false).is_ascii());
    }
}
