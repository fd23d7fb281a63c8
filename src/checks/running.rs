//! The proxy that is running, if one is: its page, its ports, its queue of uploads; and who holds a port
//! that it should have.

use std::net::{SocketAddr, TcpListener};

use super::web::{self, Fault};
use super::{CheckResult, GridSetup};
use crate::session::grid_info;
use crate::support::status::{Status, human_bytes};

/// With so many assets waiting, new ones are soon turned away.
const CROWDED: u64 = 90_000;

/// What answers on the control port.
#[derive(Debug)]
pub(super) enum Page {
    /// There is no control port.
    Off,
    Nobody,
    Foreign,
    /// A rezcache whose status we cannot read: another version.
    Another(String),
    Ours(Box<Status>),
}

/// What is on a port that viewers log in at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Free,
    /// It answers as our login ports do, with its own address.
    Ours,
    Taken,
    /// The system lets nobody have it.
    Forbidden,
}

pub(super) async fn page(control: Option<SocketAddr>) -> Page {
    let Some(control) = control.filter(|control| control.port() != 0) else { return Page::Off };
    match web::get_local(control, "/status.json").await {
        Ok(answer) => match serde_json::from_slice::<Status>(&answer.body) {
            Ok(status) => Page::Ours(Box::new(status)),
            Err(_) => another_version(&answer.body).map_or(Page::Foreign, Page::Another),
        },
        Err(Fault::Refused | Fault::Unreachable) => Page::Nobody,
        Err(_) => Page::Foreign,
    }
}

/// The version that a status names which is not made as ours is.
fn another_version(status: &[u8]) -> Option<String> {
    let status: serde_json::Value = serde_json::from_slice(status).ok()?;
    status.get("uptime_s")?.as_u64()?;
    Some(status.get("version")?.as_str()?.to_owned())
}

/// Whether a proxy of ours is running there.
pub(super) const fn is_ours(page: &Page) -> bool {
    matches!(page, Page::Ours(_) | Page::Another(_))
}

pub(super) fn judge_page(page: &Page, control: Option<SocketAddr>, inside: bool) -> CheckResult {
    const NAME: &str = "page";
    let at = control.map(|control| control.to_string()).unwrap_or_default();
    match page {
        Page::Off => {
            CheckResult::skipped(NAME, "There is no control port, so it cannot be asked what the proxy does.")
        }
        Page::Nobody if inside => CheckResult::failed(
            NAME,
            format!("The page of rezcache at http://{at}/ does not answer."),
            "Allow rezcache in your firewall or security program for connections within this computer, and start it again.",
        ),
        Page::Nobody => {
            CheckResult::skipped(NAME, format!("No proxy is running, as nothing answers at {at}."))
        }
        Page::Foreign => {
            let advice = match control.and_then(owner) {
                Some(owner) => {
                    format!("End that program ({owner}), or choose another control port with --control.")
                }
                None => "End that program, or choose another control port with --control.".to_owned(),
            };
            CheckResult::failed(
                NAME,
                format!("Another program answers at {at}, where rezcache's page should be."),
                advice,
            )
        }
        Page::Another(version) => other_version(NAME, version),
        Page::Ours(status) if status.version != env!("CARGO_PKG_VERSION") => {
            other_version(NAME, &status.version)
        }
        Page::Ours(_) => CheckResult::ok(NAME, format!("The proxy is running; its page is http://{at}/.")),
    }
}

fn other_version(name: &str, version: &str) -> CheckResult {
    CheckResult::warning(
        name,
        format!(
            "The running proxy is version {}, and this is {}.",
            plain(version),
            env!("CARGO_PKG_VERSION")
        ),
        "End the running proxy, and start it again.",
    )
}

/// A word that somebody else said, short enough to repeat.
fn plain(word: &str) -> String {
    word.chars().filter(|c| c.is_ascii_alphanumeric() || ".-+".contains(*c)).take(20).collect()
}

/// The port that a grid's viewers log in at: is it there for us, and does it answer as it must.
pub(super) async fn port(grid: &GridSetup, page: &Page, inside: bool) -> [CheckResult; 2] {
    let Some(at) = grid.listen.filter(|at| at.port() != 0) else {
        let why = "Its port is chosen when the proxy starts.";
        return ["port", "login"].map(|name| CheckResult::skipped(name, why).about(&grid.name));
    };
    let running = inside || is_ours(page);
    let seen = look(at).await;
    let owner = if seen == Port::Taken { owner(at) } else { None };
    let [port, login] = judge_port(at, seen, grid.remembered, running, owner.as_deref());
    [port.about(&grid.name), login.about(&grid.name)]
}

async fn look(at: SocketAddr) -> Port {
    match TcpListener::bind(at) {
        Ok(_) => return Port::Free,
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
        Err(_) => return Port::Forbidden,
    }
    let Ok(answer) = web::get_local(at, "/get_grid_info").await else { return Port::Taken };
    let login = grid_info::read_xml(&answer.body).ok().and_then(|info| info.login);
    if answer.status == 200 && login.as_deref() == Some(&*format!("http://{at}/")) {
        Port::Ours
    } else {
        Port::Taken
    }
}

fn judge_port(
    at: SocketAddr,
    seen: Port,
    remembered: bool,
    running: bool,
    owner: Option<&str>,
) -> [CheckResult; 2] {
    const PORT: &str = "port";
    const LOGIN: &str = "login";
    let not_ours = CheckResult::skipped(LOGIN, "The proxy does not listen there.");
    match seen {
        Port::Ours => [
            CheckResult::ok(PORT, format!("The proxy listens at {at}, where viewers look for it.")),
            CheckResult::ok(LOGIN, format!("Viewers are told to log in at http://{at}/.")),
        ],
        Port::Free if running => [
            CheckResult::warning(
                PORT,
                format!("The running proxy does not serve this grid: nothing listens at {at}."),
                "If you want to use the grid now, end the proxy and start it with this grid too.",
            ),
            not_ours,
        ],
        Port::Free => [
            CheckResult::ok(PORT, format!("The port {at} is free for the proxy.")),
            CheckResult::skipped(LOGIN, "No proxy is running."),
        ],
        Port::Forbidden => [
            CheckResult::failed(
                PORT,
                format!("This computer does not let rezcache listen at {at}."),
                "Allow rezcache in your firewall or security program, or choose another address with --listen.",
            ),
            not_ours,
        ],
        Port::Taken => {
            let who = owner
                .map_or_else(|| "Another program".to_owned(), |owner| format!("Another program ({owner})"));
            let advice = if remembered {
                "End that program: viewers keep this grid's saved passwords under this address, so rezcache takes no other. \
                 If you do not need them, remove the grid from the file ports.json in the data folder."
            } else {
                "End that program, or choose another address with --listen."
            };
            [
                CheckResult::failed(
                    PORT,
                    format!("{who} listens at {at}, where viewers look for rezcache."),
                    advice,
                ),
                not_ours,
            ]
        }
    }
}

/// Uploads, as the running proxy tells.
pub(super) fn judge_uploads(page: &Page) -> CheckResult {
    const NAME: &str = "uploads";
    let Page::Ours(status) = page else {
        return CheckResult::skipped(NAME, "No proxy is running that could be asked.");
    };
    let uploads = &status.uploads;
    let waiting =
        format!("{} assets ({}) wait to be shared", uploads.waiting, human_bytes(uploads.waiting_bytes));
    let Some(service) = &status.service else {
        return CheckResult::skipped(NAME, "The running proxy uses no shared cache.");
    };
    if uploads.waiting == 0 && !uploads.paused {
        return CheckResult::ok(NAME, "Nothing waits to be shared with the cache server.");
    }
    if uploads.paused {
        let advice = "Press Resume on rezcache's page when you want to share again; what waits for more than 7 days is dropped.";
        return CheckResult::warning(NAME, format!("Sharing is paused; {waiting}."), advice);
    }
    if service.state != "working" {
        let advice = "You need do nothing if the cache server is only away for a while; otherwise see what is said of it here.";
        return CheckResult::warning(
            NAME,
            format!("{waiting}, but the cache server is not used at present."),
            advice,
        );
    }
    if uploads.waiting >= CROWDED {
        let advice =
            "Give uploads more of your line with --upload-limit, or leave rezcache running for longer.";
        return CheckResult::warning(NAME, format!("{waiting}, and soon there is no room for more."), advice);
    }
    CheckResult::ok(NAME, format!("{waiting}, and they are on their way."))
}

/// The program that listens at an address, where the system tells.
#[cfg(target_os = "linux")]
fn owner(at: SocketAddr) -> Option<String> {
    use std::fs;
    // Address and port in hexadecimal, the address in the machine's byte order; state 0A listens.
    let SocketAddr::V4(v4) = at else { return None };
    let ip = u32::from_ne_bytes(v4.ip().octets());
    let wanted = [format!("{ip:08X}:{:04X}", v4.port()), format!("00000000:{:04X}", v4.port())];
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let listens =
            words.get(3) == Some(&"0A") && wanted.iter().any(|at| words.get(1) == Some(&at.as_str()));
        listens.then(|| words.get(9).map(|inode| format!("socket:[{inode}]")))?
    })?;
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(id) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds =
            files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == &*inode));
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{}, process {id}", name.trim().chars().take(40).collect::<String>()));
        }
    }
    None
}

#[cfg(not(target_os = "linux"))]
fn owner(_: SocketAddr) -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::checks::Outcome;
    use crate::support::metrics::Metrics;

    #[test]
    fn a_taken_port_has_other_advice_when_viewers_know_it() {
        let at = "127.0.0.1:9080".parse().unwrap();
        let of = |seen, remembered, running| {
            judge_port(at, seen, remembered, running, Some("nc, process 7"))[0].clone()
        };
        let known = of(Port::Taken, true, false);
        assert!(known.seen.contains("nc, process 7") && known.advice.unwrap().contains("saved passwords"));
        assert!(of(Port::Taken, false, false).advice.unwrap().contains("--listen"));
        assert_eq!(of(Port::Free, true, false).outcome, Outcome::Ok);
        assert_eq!(of(Port::Free, true, true).outcome, Outcome::Warning);
        assert_eq!(of(Port::Ours, true, true).outcome, Outcome::Ok);
        assert_eq!(of(Port::Forbidden, true, false).outcome, Outcome::Failed);
    }

    #[test]
    fn an_older_proxy_is_told_from_a_stranger() {
        let at = Some("127.0.0.1:9079".parse().unwrap());
        let mut status = Status::of(&Metrics::default(), Duration::ZERO);
        assert_eq!(judge_page(&Page::Ours(Box::new(status.clone())), at, false).outcome, Outcome::Ok);
        status.version = "0.0.1<script>".into();
        let old = judge_page(&Page::Ours(Box::new(status)), at, false);
        assert!(old.outcome == Outcome::Warning && old.seen.contains("0.0.1script"), "{old:?}");
        assert_eq!(judge_page(&Page::Foreign, at, false).outcome, Outcome::Failed);
        assert_eq!(judge_page(&Page::Nobody, at, false).outcome, Outcome::Skipped);
        assert_eq!(judge_page(&Page::Nobody, at, true).outcome, Outcome::Failed);
    }

    #[test]
    fn uploads_that_do_not_move_are_noted() {
        let metrics = Metrics::default();
        let of = |metrics: &Metrics| {
            judge_uploads(&Page::Ours(Box::new(Status::of(metrics, Duration::ZERO)))).outcome
        };
        assert_eq!(of(&metrics), Outcome::Skipped);
        metrics.set_service("working", true, Duration::ZERO);
        assert_eq!(of(&metrics), Outcome::Ok);
        metrics.set_upload_queue(5, 500);
        assert_eq!(of(&metrics), Outcome::Ok);
        metrics.set_service("away", true, Duration::ZERO);
        assert_eq!(of(&metrics), Outcome::Warning);
        metrics.set_service("working", true, Duration::ZERO);
        metrics.set_upload_control(true, 0);
        assert_eq!(of(&metrics), Outcome::Warning);
    }
}
