//! A grid: does its name lead somewhere, may we go there, is it believed, and does it say where to log in.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::clock::Reading;
use super::web::{self, Answer, Fault, Untrusted};
use super::{CheckResult, GridSetup};
use crate::grid::GridId;
use crate::session::grid_info;
use crate::session::reach::{Reach, ReachPolicy};
use crate::support::trust;

const NAME: &str = "grid_name";
const CONNECTION: &str = "grid_connection";
const INFO: &str = "grid_info";
/// A grid that takes longer makes every login and every teleport slow.
const SLOW: Duration = Duration::from_secs(2);

/// What was seen.
#[derive(Debug)]
enum Seen {
    /// The address is one of our own ports.
    Ourselves,
    /// The host has no address.
    Unknown,
    /// All its addresses are such as nobody may lead us to.
    Nowhere,
    /// The file of certificate authorities cannot be used; why, in words.
    Authorities(String),
    /// There was no answer.
    Silent(Fault),
    Answered {
        status: u16,
        took: Duration,
        info: Info,
    },
}

/// What it says of itself.
#[derive(Debug, PartialEq, Eq)]
enum Info {
    /// It has no such page, and need not have one.
    NotNeeded,
    /// It has no such page.
    None,
    /// Something else came.
    Unreadable,
    /// It does not say where to log in, and the address that we have says no more.
    NoLogin,
    /// Logins would go to this host, where the grid may not lead us.
    Refused(String),
    /// This host has no address.
    LoginUnknown(String),
    Login,
}

/// Looks at one grid. `own` is where we listen ourselves.
pub(super) async fn look(grid: &GridSetup, own: &[SocketAddr]) -> (Vec<CheckResult>, Option<Reading>) {
    let host = grid.uri.host().unwrap_or_default().to_owned();
    let mut reading = None;
    let seen = see(grid, &host, own, &mut reading).await;
    let results = judge(&host, &seen).into_iter().map(|result| result.about(&grid.name)).collect();
    (results, reading)
}

async fn see(grid: &GridSetup, host: &str, own: &[SocketAddr], reading: &mut Option<Reading>) -> Seen {
    let tls = grid.uri.scheme_str() == Some("https");
    let port = grid.uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let found = web::resolve(host, port).await;
    if found.is_empty() {
        return Seen::Unknown;
    }
    if found.iter().any(|at| own.contains(at)) {
        return Seen::Ourselves;
    }
    // The farthest counts, as for the proxy.
    let reach = found.iter().filter_map(|at| Reach::of(at.ip())).min().unwrap_or(Reach::Public);
    let policy = ReachPolicy { grid: reach, allowed: grid.allow.clone() };
    let permitted: Vec<_> = found.into_iter().filter(|at| policy.permits(at.ip())).collect();
    if permitted.is_empty() {
        return Seen::Nowhere;
    }
    let config = if tls {
        match trust::tls_config(grid.ca_file.as_deref()) {
            Ok(config) => Some(config),
            Err(error) => return Seen::Authorities(error.to_string()),
        }
    } else {
        None
    };
    let authority = grid.uri.authority().map_or(host, http::uri::Authority::as_str);
    let authority = authority.rsplit('@').next().unwrap_or(host);
    let Some(request) = web::get(authority, "/get_grid_info") else { return Seen::Unknown };
    let stream = match web::connect(&permitted).await {
        Ok(stream) => stream,
        Err(fault) => return Seen::Silent(fault),
    };
    match web::ask(stream, host, config, request).await {
        Ok(answer) => {
            *reading = answer.ahead.map(|ahead| Reading { who: host.to_owned(), ahead });
            let info = info(grid, &answer, &policy).await;
            Seen::Answered { status: answer.status, took: answer.took, info }
        }
        Err(fault) => Seen::Silent(fault),
    }
}

async fn info(grid: &GridSetup, answer: &Answer, policy: &ReachPolicy) -> Info {
    // Second Life has no such page.
    if GridId::from_login_uri(&grid.uri).is_some_and(|id| matches!(id.as_str(), "agni" | "aditi")) {
        return Info::NotNeeded;
    }
    match answer.status {
        200 => {}
        404 | 410 => return Info::None,
        _ => return Info::Unreadable,
    }
    let Ok(said) = grid_info::read_xml(&answer.body) else { return Info::Unreadable };
    // A whole login address needs nobody's word.
    if grid.uri.path().len() > 1 {
        return Info::Login;
    }
    let login = said.login.as_deref().and_then(|login| login.parse::<http::Uri>().ok());
    let Some((login, host)) = login.as_ref().and_then(|login| Some((login, login.host()?))) else {
        return Info::NoLogin;
    };
    let shown: String = host.chars().filter(|c| !c.is_control()).take(80).collect();
    let port = login.port_u16().unwrap_or(80);
    let found: Vec<IpAddr> = web::resolve(host, port).await.iter().map(SocketAddr::ip).collect();
    if found.is_empty() {
        return Info::LoginUnknown(shown);
    }
    if found.iter().any(|ip| policy.permits(*ip)) { Info::Login } else { Info::Refused(shown) }
}

fn judge(host: &str, seen: &Seen) -> Vec<CheckResult> {
    let check_address =
        "Check the grid's address (--grid, or url in the configuration file), and ask the grid what it is.";
    let skip = |names: &[&str], why: &str| -> Vec<CheckResult> {
        names.iter().map(|name| CheckResult::skipped(name, why)).collect()
    };
    let after = |first: CheckResult, names: &[&str], why: &str| {
        let mut results = vec![first];
        results.extend(skip(names, why));
        results
    };
    let word = web::word_for(host);
    let name = CheckResult::ok(NAME, format!("The {word} {host} leads to the grid."));
    match seen {
        Seen::Ourselves => after(
            CheckResult::failed(
                NAME,
                format!("{host} is rezcache's own address, not that of a grid."),
                check_address,
            ),
            &[CONNECTION, INFO],
            "It is not a grid.",
        ),
        Seen::Unknown => after(
            CheckResult::failed(
                NAME,
                format!("The name {host} leads nowhere: no address was found for it."),
                format!("See whether this computer is on the internet. {check_address}"),
            ),
            &[CONNECTION, INFO],
            "Its address is not known.",
        ),
        Seen::Nowhere => after(
            CheckResult::failed(
                NAME,
                format!("The name {host} leads to an address that no grid can have."),
                format!("{check_address} A filter in your network may also have changed it."),
            ),
            &[CONNECTION, INFO],
            "Its address is not used.",
        ),
        Seen::Authorities(why) => {
            let advice = "Name the right file with --ca-file, or leave it out.";
            vec![
                name,
                CheckResult::failed(
                    CONNECTION,
                    format!("The grid's certificates cannot be checked: {why}."),
                    advice,
                ),
                CheckResult::skipped(INFO, "The grid was not asked."),
            ]
        }
        Seen::Silent(fault) => {
            vec![name, silent(host, fault), CheckResult::skipped(INFO, "The grid did not answer.")]
        }
        Seen::Answered { status, took, info } => {
            let millis = took.as_millis();
            let connection = if *took > SLOW {
                CheckResult::warning(
                    CONNECTION,
                    format!("The grid {host} answers slowly: it took {millis} ms."),
                    "The grid, or the way to it, is busy; logins and teleports take longer. Try again later.",
                )
            } else {
                CheckResult::ok(CONNECTION, format!("The grid {host} answers; it took {millis} ms."))
            };
            vec![name, connection, judge_info(host, *status, info)]
        }
    }
}

fn silent(host: &str, fault: &Fault) -> CheckResult {
    let wait = "Ask the grid whether it is up, and try again later.";
    let (seen, advice) = match fault {
        Fault::Refused => (
            format!("The grid does not run at this address: {host} refuses the connection."),
            format!("{wait} If it is up, check the port in the grid's address."),
        ),
        Fault::Unreachable | Fault::Silent => (
            format!("The grid {host} does not answer in time."),
            format!(
                "See whether this computer is on the internet, and whether your firewall lets rezcache out. {wait}"
            ),
        ),
        Fault::NotHttp => (
            format!("What answers at {host} is no grid: it does not speak HTTP, or breaks off."),
            format!("Check the grid's address: it may need https in place of http. {wait}"),
        ),
        Fault::Tls => (
            format!("No safe connection to {host} can be made: it does not speak TLS as it should."),
            "Check the grid's address: it may need http in place of https.".to_owned(),
        ),
        Fault::Untrusted(wrong) => {
            let (seen, advice) = match wrong {
                Untrusted::Issuer => (
                    "nobody that this computer trusts has signed it",
                    "If the grid has an authority of its own, get its file from the grid's own pages and name it with --ca-file. \
                     Otherwise somebody may be in between: do not log in.",
                ),
                Untrusted::Time => (
                    "its time is over or has not come",
                    "See whether this computer's clock is right. If it is, the grid must renew its certificate: tell it.",
                ),
                Untrusted::Name => (
                    "it is for another name",
                    "Check the grid's address. If it is right, somebody may be in between: do not log in, and ask the grid.",
                ),
                Untrusted::Pin | Untrusted::Other => {
                    ("it is not in order", "Ask the grid about its certificate, and do not log in before.")
                }
            };
            return CheckResult::failed(
                CONNECTION,
                format!("The certificate of {host} is not believed: {seen}."),
                advice,
            );
        }
    };
    CheckResult::failed(CONNECTION, seen, advice)
}

fn judge_info(host: &str, status: u16, info: &Info) -> CheckResult {
    let allow = "If you know it and want that, allow it with --grid-allow.";
    match info {
        Info::NotNeeded => CheckResult::ok(INFO, "Second Life needs to say nothing more."),
        Info::Login => CheckResult::ok(INFO, "The grid says where to log in."),
        Info::None => CheckResult::warning(
            INFO,
            format!("The grid {host} has no page get_grid_info, with which grids say where to log in."),
            "If you can log in, you need do nothing. Otherwise check the grid's address: use the one the grid gives as its login address.",
        ),
        Info::NoLogin => CheckResult::warning(
            INFO,
            format!("The grid {host} does not say where to log in."),
            "If you can log in, you need do nothing. Otherwise use the address that the grid gives as its login address.",
        ),
        Info::Unreadable if status >= 500 => CheckResult::failed(
            INFO,
            format!("The grid {host} is in trouble: it answers with error {status}."),
            "Wait, and try again later; ask the grid if it lasts.",
        ),
        Info::Unreadable => CheckResult::failed(
            INFO,
            format!(
                "What answers at {host} is no grid's login service, but some other web server (answer {status})."
            ),
            "Check the grid's address: it must be the login address, not that of its web site. In a hotel or a school, open \
             a web page first: you may have to sign in to the network.",
        ),
        Info::Refused(login) => CheckResult::failed(
            INFO,
            format!("The grid says to log in at {login}, an address nearer to you than the grid itself."),
            format!("rezcache does not go there, since it may be in your own network. {allow}"),
        ),
        Info::LoginUnknown(login) => CheckResult::failed(
            INFO,
            format!("The grid says to log in at {login}, but that name leads nowhere."),
            "Tell the grid; until it is put right nobody can log in.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Outcome;

    #[test]
    fn whatever_goes_wrong_has_one_failure_and_advice() {
        let faults = [
            Fault::Refused,
            Fault::Unreachable,
            Fault::Silent,
            Fault::NotHttp,
            Fault::Tls,
            Fault::Untrusted(Untrusted::Issuer),
            Fault::Untrusted(Untrusted::Time),
            Fault::Untrusted(Untrusted::Name),
            Fault::Untrusted(Untrusted::Other),
        ];
        let mut cases: Vec<Seen> = faults.into_iter().map(Seen::Silent).collect();
        cases.extend([Seen::Ourselves, Seen::Unknown, Seen::Nowhere, Seen::Authorities("no file".into())]);
        let infos = [Info::Unreadable, Info::Refused("x".into()), Info::LoginUnknown("x".into())];
        cases.extend(infos.into_iter().map(|info| Seen::Answered {
            status: 503,
            took: Duration::ZERO,
            info,
        }));
        let mut told = std::collections::BTreeSet::new();
        for seen in &cases {
            let results = judge("grid.example", seen);
            assert_eq!(
                results.iter().map(|result| &*result.name).collect::<Vec<_>>(),
                [NAME, CONNECTION, INFO]
            );
            let failed: Vec<_> = results.iter().filter(|result| result.outcome == Outcome::Failed).collect();
            assert_eq!(failed.len(), 1, "{results:?}");
            assert!(failed[0].advice.as_ref().is_some_and(|advice| !advice.is_empty()));
            told.insert(failed[0].seen.clone());
        }
        assert_eq!(told.len(), cases.len() - 1, "only silence and no way there look the same");
    }

    #[test]
    fn a_grid_that_answers_is_all_right_and_a_slow_one_is_noted() {
        let of = |took, info| {
            let results = judge("grid.example", &Seen::Answered { status: 200, took, info });
            results.iter().map(|result| result.outcome).max()
        };
        assert_eq!(of(Duration::from_millis(80), Info::Login), Some(Outcome::Ok));
        assert_eq!(of(Duration::from_secs(3), Info::Login), Some(Outcome::Warning));
        assert_eq!(of(Duration::ZERO, Info::None), Some(Outcome::Warning));
        assert_eq!(of(Duration::ZERO, Info::NotNeeded), Some(Outcome::Ok));
    }
}
