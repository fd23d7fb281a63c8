//! The shared caches of a home or a classroom: which were joined, are they there, and do they let us in.
//!
//! Several may have been joined of which one is there, as with a computer that goes to school and comes home.

use std::path::Path;

use futures_util::future::join_all;

use super::clock::Reading;
use super::service::{self, ACCESS, Access, Face, HTTPS, Seen};
use super::{CheckResult, HouseholdSetup, LIMIT, ServiceSetup, hung, in_time, within};
use crate::client::address::ServerAddress;
use crate::client::joined;
use crate::token;
use crate::token::join::JoinLine;

const NAME: &str = "service_joined";

/// Looks at those that were joined; `now` is in seconds since 1970.
pub(super) async fn look(
    setup: &HouseholdSetup,
    data_dir: &Path,
    now: u64,
) -> (Vec<CheckResult>, Vec<Reading>) {
    let lines = match &setup.line {
        Some(line) => vec![line.clone()],
        None => {
            let folder = data_dir.to_owned();
            match in_time(LIMIT, move || joined::load(&folder)).await {
                Some(Ok(servers)) => servers.into_iter().map(|server| server.line).collect(),
                Some(Err(error)) => {
                    let seen = format!("Which shared caches were joined is not known: {error}.");
                    let advice = "Delete that file, and join again with `rezcache join` and the join line. Until then everything comes \
                                  from the grid.";
                    return (vec![CheckResult::failed(NAME, seen, advice)], Vec::new());
                }
                None => {
                    let result = hung(data_dir);
                    return (vec![CheckResult { name: NAME.to_owned(), ..result }], Vec::new());
                }
            }
        }
    };
    if lines.is_empty() {
        let advice = "Ask whoever runs the shared cache for its join line, and give it to `rezcache join`. Until then everything \
                      comes from the grid.";
        return (
            vec![CheckResult::warning(NAME, "No shared cache at home or in class was joined.", advice)],
            Vec::new(),
        );
    }
    let visits = join_all(lines.iter().map(|line| async {
        let server = ServiceSetup {
            address: ServerAddress::at(line.address, &line.pin),
            token: Some(line.token.clone()),
        };
        let seen = async { Some(service::see(&server, &[line.address]).await) };
        within(seen, || None).await
    }));
    let (marker, visits) = tokio::join!(service::marker(data_dir), visits);
    let somebody = visits.iter().flatten().any(|seen| matches!(seen.face, Face::Node { .. }));
    let (mut results, mut readings) = (Vec::new(), Vec::new());
    for (line, seen) in lines.iter().zip(&visits) {
        let about = format!("{} at {}", line.pin.short(), line.address);
        let mut found = judge(line, seen.as_ref(), somebody, now);
        found.push(service::judge_trust(line.pin.as_str(), data_dir, marker.clone()));
        results.extend(found.into_iter().map(|result| result.about(&about)));
        let ahead = seen.as_ref().and_then(|seen| seen.ahead);
        readings.extend(ahead.map(|ahead| Reading { who: line.address.ip().to_string(), ahead }));
    }
    (results, readings)
}

/// `somebody` of all that were joined is there.
fn judge(line: &JoinLine, seen: Option<&Seen>, somebody: bool, now: u64) -> Vec<CheckResult> {
    let Some(Seen { quic, face, access, ahead }) = seen.filter(|seen| matches!(seen.face, Face::Node { .. }))
    else {
        if somebody {
            let why = "This shared cache is not here; another one is, and is used.";
            return vec![CheckResult::skipped(HTTPS, why)];
        }
        let advice = "See whether it is switched on, and whether this computer is in its network. If it has another address now, a \
                      running proxy finds it by itself. Meanwhile everything comes from the grid.";
        return vec![CheckResult::warning(
            HTTPS,
            "This shared cache was joined, but it is not reached at the address where it was last.",
            advice,
        )];
    };
    let now = now.saturating_add_signed(ahead.unwrap_or(0));
    let over = token::unverified_expiry(line.token.reveal()).is_some_and(|expires| expires <= now);
    vec![
        CheckResult::ok(HTTPS, "This shared cache was joined, and it answers."),
        service::judge_quic(*quic, face),
        judge_access(access, over),
    ]
}

/// What becomes of a question with the token of the join line, whose time may be `over`.
fn judge_access(access: &Access, over: bool) -> CheckResult {
    let anew = "ask whoever runs it for a new join line, and give that to `rezcache join`.";
    match access {
        // The token of a line that holds is known, and lets nobody do anything but join: 403, where another is 401.
        Access::Granted | Access::Refused { status: 403, .. } => {
            CheckResult::ok(ACCESS, "The shared cache takes your join line.")
        }
        // Who has come in by it stays.
        Access::Refused { .. } if over => CheckResult::warning(
            ACCESS,
            "The time of your join line is over.",
            format!(
                "If this shared cache is in use on rezcache's page, you need do nothing. Otherwise {anew}"
            ),
        ),
        Access::Refused { why, .. } => {
            let said = if why.is_empty() { String::new() } else { format!(" It says: {why}.") };
            CheckResult::failed(
                ACCESS,
                format!("The shared cache refuses your join line.{said}"),
                format!("To put that right, {anew} Until then everything comes from the grid."),
            )
        }
        Access::NotAsked => CheckResult::skipped(ACCESS, "The shared cache could not be asked."),
        Access::Busy => CheckResult::warning(
            ACCESS,
            "The shared cache is busy, or you have asked it for much.",
            "Wait a while; meanwhile everything comes from the grid.",
        ),
        Access::Odd(status) => CheckResult::failed(
            ACCESS,
            format!("The shared cache does not understand what it is asked (answer {status})."),
            "Install the same version of rezcache on both computers.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::judge_access;
    use crate::checks::Outcome;
    use crate::checks::service::Access;

    #[test]
    fn who_is_refused_is_told_to_join_anew() {
        let refused = Access::Refused { status: 401, why: "the token was revoked".into() };
        let now = judge_access(&refused, false);
        assert_eq!(now.outcome, Outcome::Failed);
        assert!(now.seen.contains("was revoked"));
        assert!(now.advice.is_some_and(|advice| advice.contains("new join line")));
        assert_eq!(judge_access(&refused, true).outcome, Outcome::Warning, "who came in stays");
        assert_eq!(judge_access(&Access::Granted, true).outcome, Outcome::Ok);
        let joins_only = Access::Refused { status: 403, why: "join with it".into() };
        assert_eq!(judge_access(&joins_only, false).outcome, Outcome::Ok);
    }
}
