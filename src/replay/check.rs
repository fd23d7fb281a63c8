//! Whether a response is what it should be: the right answer for assets, the captured reply with
//! nothing but addresses changed for everything else.

use std::time::Duration;

use super::board::Board;
use super::grid::seconds;
use super::http::Response;
use super::markup;
use super::script::{self, Role, Script, ScriptedExchange, content_range};
use super::translation::Translation;

/// What an exchange is, without its URL.
pub(crate) fn describe(scripted: &ScriptedExchange) -> String {
    let method = &scripted.exchange.request.method;
    match scripted.role {
        Role::Login => "login".into(),
        Role::Seed => "seed request".into(),
        Role::EventQueue => "event-queue poll".into(),
        Role::Asset(Some((kind, id))) => format!("{method} of {kind} {id}"),
        Role::Asset(None) => format!("{method} of an asset without a valid id"),
        Role::Other => format!("{method} of another capability"),
    }
}

/// Checks the response to anything but an asset request, and learns from it.
pub(crate) fn reply(
    board: &Board,
    scripted: &ScriptedExchange,
    response: &Response,
    through_proxy: bool,
    learnt: Option<&mut Translation>,
) {
    let Some(captured) = &scripted.exchange.reply else { return };
    let captured = &captured.response;
    let what = format!("{} {}", seconds(scripted.exchange.sent), describe(scripted));
    // The grid is asked on the viewer's behalf, and a grid that says nothing is helped out.
    let is_made = script::is_grid_info(&scripted.exchange.request.target) && captured.status != 200;
    if through_proxy && is_made {
        return;
    }
    if captured.status != response.status {
        return board.error(format!("{what}: status {} instead of {}", response.status, captured.status));
    }
    if captured.headers.get("content-type") != response.headers.get("content-type") {
        board.error(format!("{what}: another Content-Type than captured"));
    }
    let request = &scripted.exchange.request;
    if through_proxy && script::is_grid_info(&request.target) {
        if !markup::is_same_grid_info(&captured.body, &response.body) {
            board.error(format!("{what}: differs in more than login and gridname"));
        }
        return;
    }
    let asks_for_info = through_proxy && script::asks_for_grid_info(request);
    let rewritten = matches!(scripted.role, Role::Login | Role::Seed | Role::EventQueue);
    if !rewritten {
        if captured.body != response.body && !(asks_for_info && differs_as_grid_info(captured, response)) {
            board.error(format!("{what}: another body than captured"));
        }
        return;
    }
    let texts = std::str::from_utf8(&captured.body).ok().zip(std::str::from_utf8(&response.body).ok());
    let Some(pairs) = texts.and_then(|(captured, received)| markup::pairs(captured, received)) else {
        if captured.body != response.body {
            board.error(format!("{what}: the reply differs in more than addresses"));
        }
        return;
    };
    for key in learnt.map(|learnt| learnt.learn(&pairs, through_proxy)).unwrap_or_default() {
        board.error(format!("{what}: the value of {key} is not what it should be"));
    }
}

/// Whether two XML-RPC forms of the grid information differ in our own marks only.
fn differs_as_grid_info(captured: &Response, received: &Response) -> bool {
    let texts = std::str::from_utf8(&captured.body).ok().zip(std::str::from_utf8(&received.body).ok());
    texts.and_then(|(captured, received)| markup::pairs(captured, received)).is_some_and(|pairs| {
        pairs.iter().all(|(old, new)| matches!(old.key, "login" | "gridname") || old.raw == new.raw)
    })
}

/// Who delivered, as the response says.
enum Source {
    Memory,
    Disk,
    Service,
    Grid,
    Joined,
}

fn source(response: &Response) -> Option<Source> {
    let joined = response.headers.get("rezcache-joined") == Some("1");
    match response.headers.get("rezcache")? {
        "hit; tier=memory" => Some(Source::Memory),
        "hit; tier=disk" => Some(Source::Disk),
        "hit; tier=service" => Some(Source::Service),
        "miss" if joined => Some(Source::Joined),
        "miss" => Some(Source::Grid),
        _ => None,
    }
}

/// Checks the response to an asset request, and counts it if it counts.
pub(crate) fn asset(
    script: &Script,
    board: &Board,
    scripted: &ScriptedExchange,
    response: &Response,
    through_proxy: bool,
    took: Duration,
) {
    let what = format!("{} {}", seconds(scripted.exchange.sent), describe(scripted));
    let source = source(response);
    if through_proxy && source.is_none() {
        board.error(format!("{what}: the response does not say where it comes from"));
    }
    let request = &scripted.exchange.request;
    let expected = scripted.counted.and_then(|asset| Some((asset, script.assets.get(&asset)?)));
    let Some((asset, whole)) = expected else {
        let captured = scripted.exchange.reply.as_ref().map(|reply| &reply.response);
        let body_counts = request.method == "GET";
        if captured.is_some_and(|captured| {
            captured.status != response.status || (body_counts && captured.body != response.body)
        }) {
            board.error(format!("{what}: another answer than captured"));
        }
        return;
    };
    let is_hit = matches!(source, Some(Source::Memory | Source::Disk | Source::Service));
    let verdict = judge(request.headers.get("range"), response, whole, is_hit);
    board.update(|ledger| {
        ledger.latencies.push(took);
        ledger.to_viewer += response.body.len() as u64;
        *match source {
            Some(Source::Memory) => &mut ledger.served.memory,
            Some(Source::Disk) => &mut ledger.served.disk,
            Some(Source::Service) => &mut ledger.served.service,
            Some(Source::Joined) => &mut ledger.served.joined,
            Some(Source::Grid) | None => &mut ledger.served.grid,
        } += 1;
        match verdict {
            Ok(()) => {
                let slice = response.headers.get("content-range").and_then(content_range);
                let first = slice.filter(|_| response.status == 206).map_or(0, |(first, _, _)| first);
                ledger.keep(asset.1, whole.len(), first, &response.body);
            }
            Err(Wrong::Missing) => {
                ledger.missing += 1;
                ledger.error(format!("{what}: status {} instead of the asset", response.status));
            }
            Err(Wrong::Mismatch(why)) => {
                ledger.mismatched += 1;
                ledger.error(format!("{what}: {why}"));
            }
        }
    });
}

#[derive(Debug, PartialEq, Eq)]
enum Wrong {
    Missing,
    Mismatch(&'static str),
}

/// 200 with the whole asset, or 206 whose Content-Range and body are that slice and begin at or
/// before the first byte asked; on a hit, ranges that are no plain range get the whole asset.
fn judge(range: Option<&str>, response: &Response, whole: &[u8], is_hit: bool) -> Result<(), Wrong> {
    let asked = range.map(|range| plain_range(range, whole.len()));
    match response.status {
        200 if response.body == whole => Ok(()),
        200 => Err(Wrong::Mismatch("other bytes than in the capture")),
        206 if is_hit && asked.is_some_and(|first| first.is_none()) => {
            Err(Wrong::Mismatch("a slice where a hit must be whole"))
        }
        206 => {
            let slice = response.headers.get("content-range").and_then(content_range);
            let Some((first, last, total)) = slice else {
                return Err(Wrong::Mismatch("206 without a readable Content-Range"));
            };
            let first_asked = asked.flatten().unwrap_or(if range.is_some() { usize::MAX } else { 0 });
            if total != whole.len() || whole.get(first..=last) != Some(&response.body[..]) {
                Err(Wrong::Mismatch("a slice that is not what its Content-Range says"))
            } else if first > first_asked || (range.is_none() && last + 1 < total) {
                Err(Wrong::Mismatch("a slice that does not hold what was asked"))
            } else {
                Ok(())
            }
        }
        _ => Err(Wrong::Missing),
    }
}

/// The first byte of a plain range `a-b` or `a-` that begins within the asset.
fn plain_range(range: &str, len: usize) -> Option<usize> {
    let (first, last) = range.trim().strip_prefix("bytes=")?.split_once('-')?;
    let first: usize = first.trim().parse().ok()?;
    let last = match last.trim() {
        "" => usize::MAX,
        digits => digits.parse().ok()?,
    };
    (first <= last && first < len).then_some(first)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::super::http::{Parsed, Response, parse_response};
    use super::{Wrong, judge};

    fn response(head: &str, body: &[u8]) -> Response {
        let wire =
            [format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat();
        match parse_response(&wire, "GET", false) {
            Parsed::Message(response, _) => response,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_right_answer_is_the_asset_or_the_slice_it_says() {
        let whole = b"0123456789";
        let slice =
            |range: &str, body: &[u8]| response(&format!("206 P\r\nContent-Range: bytes {range}"), body);
        assert_eq!(judge(None, &response("200 OK", whole), whole, false), Ok(()));
        assert_eq!(judge(Some("bytes=2-4"), &response("200 OK", whole), whole, true), Ok(()));
        assert_eq!(judge(Some("bytes=2-4"), &slice("2-4/10", b"234"), whole, true), Ok(()));
        assert_eq!(judge(Some("bytes=2-4"), &slice("0-4/10", b"01234"), whole, true), Ok(()));
        let mismatch = |range, response: &Response, hit| {
            matches!(judge(range, response, whole, hit), Err(Wrong::Mismatch(_)))
        };
        assert!(mismatch(None, &response("200 OK", b"012345678X"), false));
        assert!(mismatch(Some("bytes=2-4"), &slice("3-4/10", b"34"), true));
        assert!(mismatch(Some("bytes=2-4"), &slice("2-4/10", b"235"), true));
        assert!(mismatch(Some("bytes=2-4"), &slice("2-4/11", b"234"), true));
        assert!(mismatch(None, &slice("0-4/10", b"01234"), false));
        assert_eq!(judge(None, &response("404 N", b""), whole, false), Err(Wrong::Missing));
    }

    #[test]
    fn odd_ranges_get_everything_on_a_hit_and_what_the_grid_says_on_a_miss() {
        let whole = b"0123456789";
        let slice = response("206 P\r\nContent-Range: bytes 0-5/10", b"012345");
        for range in ["bytes=-5", "bytes=7-6", "bytes=0-1,3-4", "lines=1-2", "bytes=10-"] {
            assert_eq!(judge(Some(range), &slice, whole, false), Ok(()), "{range}");
            assert!(judge(Some(range), &slice, whole, true).is_err(), "{range}");
            assert_eq!(judge(Some(range), &response("200 OK", whole), whole, true), Ok(()), "{range}");
        }
    }
}
