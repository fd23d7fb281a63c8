//! What this computer gives every program: UDP on loopback, open files, the name `localhost`, and the
//! proxies of its environment.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::{CheckResult, web};

/// How long a datagram to ourselves may take; several are sent, since any may be lost.
const UDP_LIMIT: Duration = Duration::from_millis(700);
const UDP_TRIES: u8 = 3;
/// What two viewers need, with room to spare.
const ENOUGH_FILES: u64 = 2048;

/// What becomes of a datagram that goes from one of our sockets to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loop {
    Arrives,
    Lost,
    NoSocket,
}

pub(super) async fn udp() -> CheckResult {
    let seen = match loops().await {
        Ok(true) => Loop::Arrives,
        Ok(false) => Loop::Lost,
        Err(_) => Loop::NoSocket,
    };
    judge_udp(seen)
}

async fn loops() -> std::io::Result<bool> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (from, to) = (UdpSocket::bind(any).await?, UdpSocket::bind(any).await?);
    let (to_address, from_address) = (to.local_addr()?, from.local_addr()?);
    for number in 0..UDP_TRIES {
        let word = [b'r', b'e', b'z', number];
        if from.send_to(&word, to_address).await.is_err() {
            continue;
        }
        let mut buffer = [0; 16];
        // Whatever a stranger sends here is not counted.
        if let Ok(Ok((4, sender))) = timeout(UDP_LIMIT, to.recv_from(&mut buffer)).await
            && sender == from_address
            && buffer.starts_with(b"rez")
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn judge_udp(seen: Loop) -> CheckResult {
    const NAME: &str = "udp_loopback";
    let advice = "Allow rezcache in your firewall or security program, also for UDP on this computer (127.0.0.1): \
                  without it no viewer can log in through rezcache.";
    match seen {
        Loop::Arrives => CheckResult::ok(NAME, "Viewers on this computer reach rezcache over UDP."),
        Loop::Lost => {
            CheckResult::failed(NAME, "What is sent over UDP within this computer does not arrive.", advice)
        }
        Loop::NoSocket => CheckResult::failed(NAME, "This computer lets rezcache have no UDP port.", advice),
    }
}

pub(super) fn files() -> CheckResult {
    #[cfg(unix)]
    let most = rlimit::getrlimit(rlimit::Resource::NOFILE).ok().map(|(_, hard)| hard);
    #[cfg(not(unix))]
    let most = None;
    judge_files(most)
}

fn judge_files(most: Option<u64>) -> CheckResult {
    const NAME: &str = "open_files";
    match most {
        None => CheckResult::skipped(NAME, "This system sets no limit of open files that matters here."),
        Some(most) if most < ENOUGH_FILES => CheckResult::warning(
            NAME,
            format!("Programs may have only {most} files and connections open at a time."),
            format!(
                "Raise the limit to {ENOUGH_FILES} or more (`ulimit -Hn`, or LimitNOFILE in a service unit); two viewers may need that many."
            ),
        ),
        Some(_) => CheckResult::ok(NAME, "Enough files and connections may be open at a time."),
    }
}

pub(super) async fn localhost() -> CheckResult {
    let found: Vec<IpAddr> = web::resolve("localhost", 0).await.iter().map(SocketAddr::ip).collect();
    judge_localhost(&found)
}

fn judge_localhost(found: &[IpAddr]) -> CheckResult {
    const NAME: &str = "localhost";
    let advice = "Use the number 127.0.0.1 wherever you would write localhost, also for a grid on this computer; \
                  the addresses that rezcache prints do so already.";
    if found.iter().any(|ip| !ip.is_loopback()) {
        let seen = "The name localhost leads to another computer.";
        return CheckResult::warning(NAME, seen, format!("Put that right in the file hosts. {advice}"));
    }
    match (found.iter().any(IpAddr::is_ipv4), found.is_empty()) {
        (true, _) => CheckResult::ok(NAME, "The name localhost means this computer."),
        (false, true) => {
            CheckResult::warning(NAME, "The name localhost means nothing on this computer.", advice)
        }
        (false, false) => CheckResult::warning(
            NAME,
            "The name localhost means only the IPv6 address of this computer.",
            advice,
        ),
    }
}

pub(super) fn environment() -> CheckResult {
    let get = |name: &str| {
        let value = std::env::var_os(name)?;
        (!value.is_empty()).then(|| value.to_string_lossy().into_owned())
    };
    let found: Vec<&str> =
        ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
            .into_iter()
            .filter(|name| get(name).is_some())
            .collect();
    let exceptions = get("no_proxy").or_else(|| get("NO_PROXY")).unwrap_or_default();
    judge_environment(&found, &exceptions)
}

/// The values are nobody's business: a password may stand in them.
fn judge_environment(found: &[&str], exceptions: &str) -> CheckResult {
    const NAME: &str = "proxy_variables";
    if found.is_empty() {
        return CheckResult::ok(NAME, "No other web proxy stands in the environment.");
    }
    let names = found.join(", ");
    // As libcurl reads it, which viewers use: whole addresses with commas or spaces between.
    let exempt =
        exceptions.split([',', ' ']).any(|word| matches!(word.trim(), "*" | "127.0.0.1" | "127.0.0.0/8"));
    if exempt {
        return CheckResult::ok(
            NAME,
            format!(
                "A web proxy is set ({names}), but not for this computer. rezcache itself goes to grids directly."
            ),
        );
    }
    CheckResult::warning(
        NAME,
        format!(
            "A web proxy is set in the environment ({names}); viewers started from here may look for rezcache there."
        ),
        "Set the variable no_proxy to 127.0.0.1, or remove the web proxy. rezcache itself does not use it: it goes to grids directly.",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::checks::Outcome;

    #[tokio::test]
    async fn a_datagram_to_ourselves_arrives() {
        assert_eq!(udp().await.outcome, Outcome::Ok);
        assert_eq!(judge_udp(Loop::Lost).outcome, Outcome::Failed);
        assert_eq!(judge_udp(Loop::NoSocket).outcome, Outcome::Failed);
    }

    #[test]
    fn localhost_is_this_computer_over_ipv4_too() {
        let of = |found: &[&str]| {
            let found: Vec<_> = found.iter().map(|ip| ip.parse().unwrap()).collect();
            judge_localhost(&found).outcome
        };
        assert_eq!(of(&["127.0.0.1", "::1"]), Outcome::Ok);
        assert_eq!(of(&["::1"]), Outcome::Warning);
        assert_eq!(of(&[]), Outcome::Warning);
        assert_eq!(of(&["127.0.0.1", "192.168.1.9"]), Outcome::Warning);
    }

    #[test]
    fn a_web_proxy_is_noted_unless_this_computer_is_exempt() {
        assert_eq!(judge_environment(&[], "").outcome, Outcome::Ok);
        assert_eq!(judge_environment(&["HTTP_PROXY"], "x.example").outcome, Outcome::Warning);
        assert_eq!(judge_environment(&["HTTP_PROXY"], "x.example, 127.0.0.1").outcome, Outcome::Ok);
    }

    #[test]
    fn few_open_files_are_noted() {
        assert_eq!(judge_files(Some(256)).outcome, Outcome::Warning);
        assert_eq!(judge_files(Some(65_536)).outcome, Outcome::Ok);
        assert_eq!(judge_files(None).outcome, Outcome::Skipped);
    }
}
