//! What can be done from the control port, by whoever knows the token: by the page's script and other
//! scripts with `Authorization: Bearer TOKEN`, and by the page's form with the token in a field.
//!
//! The token alone lets an action pass. That it comes by POST, under our own name, and from no other site's
//! page is asked for too, before the token is looked at.

use std::time::Duration;

use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;

use super::form::{self, Fields};
use super::state::ControlState;
use super::{html, text};
use crate::proxy::lan::JoinError;
use crate::proxy::page::{self, Said};
use crate::proxy::replies;
use crate::proxy::upstream::Body;
use crate::support::metrics::Counter;

/// How long a form may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// What a store may be made to hold: fewer than this would hold nothing, more has nobody.
const SIZES: std::ops::RangeInclusive<u64> = 64 << 20..=16 << 40;

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Only looks whether the token is right.
    Key,
    UploadsPause,
    UploadsResume,
    UploadsLimit,
    StoreClear,
    StoreSize,
    RegionPin,
    RegionUnpin,
    RegionWarm,
    RegionStop,
    Join,
    SelfTest,
}

impl Action {
    const ALL: [(&'static str, Self); 12] = [
        ("/key", Self::Key),
        ("/uploads/pause", Self::UploadsPause),
        ("/uploads/resume", Self::UploadsResume),
        ("/uploads/limit", Self::UploadsLimit),
        ("/store/clear", Self::StoreClear),
        ("/store/size", Self::StoreSize),
        ("/regions/pin", Self::RegionPin),
        ("/regions/unpin", Self::RegionUnpin),
        ("/regions/warm", Self::RegionWarm),
        ("/regions/stop", Self::RegionStop),
        ("/join", Self::Join),
        ("/self-test", Self::SelfTest),
    ];

    /// The action that a path stands for.
    pub(super) fn of(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(name, _)| *name == path).map(|(_, action)| action)
    }

    /// Whether a path is kept for actions, even one that does not exist.
    pub(super) fn is_meant_by(path: &str) -> bool {
        ["/uploads/", "/store/", "/regions/"].iter().any(|prefix| path.starts_with(prefix))
            || Self::of(path).is_some()
    }

    /// The word that the page is told by what was done.
    const fn word(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::UploadsPause => "paused",
            Self::UploadsResume => "resumed",
            Self::UploadsLimit => "limited",
            Self::StoreClear => "cleared",
            Self::StoreSize => "resized",
            Self::RegionPin => "pinned",
            Self::RegionUnpin => "unpinned",
            Self::RegionWarm => "warming",
            Self::RegionStop => "stopped",
            Self::Join => "joined",
            Self::SelfTest => "testing",
        }
    }

    /// What was done, as the page says it.
    const fn done(self) -> &'static str {
        match self {
            Self::Key => "The key is the right one.",
            Self::UploadsPause => "Uploads are paused.",
            Self::UploadsResume => "Uploads go on.",
            Self::UploadsLimit => "The limit of uploads is set.",
            Self::StoreClear => "The store is being cleared; the regions and their pins are forgotten.",
            Self::StoreSize => "The size of the store is set.",
            Self::RegionPin => "The region is pinned.",
            Self::RegionUnpin => "The region is not pinned any more.",
            Self::RegionWarm => "The region is being warmed up.",
            Self::RegionStop => "Warming up was stopped.",
            Self::Join => "Joined; the server is used as soon as it is found.",
            Self::SelfTest => "The self-test runs.",
        }
    }

    /// What the word in the page's address says was done.
    pub(super) fn said(query: &str) -> Option<Said> {
        let word = query.strip_prefix("done=")?;
        let (_, action) = Self::ALL.into_iter().find(|(_, action)| action.word() == word)?;
        Some(Said { text: action.done() })
    }
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotDone {
    status: StatusCode,
    sentence: String,
}

fn not_done(status: StatusCode, sentence: impl Into<String>) -> NotDone {
    NotDone { status, sentence: sentence.into() }
}

/// Answers a request to one of the actions' paths. It has passed the guard.
pub(super) async fn answer(state: &ControlState, parts: &Parts, body: Incoming) -> Response<Body> {
    let by_form = !parts.headers.contains_key(AUTHORIZATION) && is_form(parts);
    match attempt(state, parts, body).await {
        Ok(action) => {
            state.metrics.count(Counter::ControlActions);
            state.changed();
            if by_form { back(action) } else { text(StatusCode::OK, done(action)) }
        }
        Err(NotDone { status, sentence }) => {
            state.metrics.count(Counter::ControlActionsRefused);
            let mut response = if by_form {
                let nonce = super::nonce();
                html(status, page::trouble(&sentence, &nonce), &nonce)
            } else {
                text(status, &sentence)
            };
            if status == StatusCode::METHOD_NOT_ALLOWED {
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            }
            response
        }
    }
}

const fn done(action: Action) -> &'static str {
    action.done()
}

/// Back to the page, which then says what was done; a reload does not do it again.
fn back(action: Action) -> Response<Body> {
    let mut response = text(StatusCode::SEE_OTHER, action.done());
    if let Ok(location) = HeaderValue::from_str(&format!("/?done={}", action.word())) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn is_form(parts: &Parts) -> bool {
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';')
        .next()
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"))
}

async fn attempt(state: &ControlState, parts: &Parts, body: Incoming) -> Result<Action, NotDone> {
    let Some(token) = &state.token else {
        return Err(not_done(StatusCode::NOT_FOUND, "this rezcache takes no actions"));
    };
    if parts.method != Method::POST {
        return Err(not_done(StatusCode::METHOD_NOT_ALLOWED, "POST only"));
    }
    let malformed = || not_done(StatusCode::BAD_REQUEST, "what was sent cannot be read");
    let query = Fields::parse(parts.uri.query().unwrap_or_default().as_bytes()).ok_or_else(malformed)?;
    let sent = if is_form(parts) {
        let whole = tokio::time::timeout(BODY_TIMEOUT, replies::read_whole(body, form::MAX_BYTES)).await;
        let whole = whole.map_err(|_| not_done(StatusCode::REQUEST_TIMEOUT, "the form did not come"))?;
        let whole = whole.map_err(|_| not_done(StatusCode::PAYLOAD_TOO_LARGE, "the form is too large"))?;
        Fields::parse(&whole).ok_or_else(malformed)?
    } else {
        Fields::default()
    };
    // A token in an address would stay in histories and logs: it counts in a body or a header only.
    let bearer = parts.headers.get(AUTHORIZATION);
    let shown = match bearer {
        Some(value) => value.to_str().ok().and_then(|value| value.strip_prefix("Bearer ")),
        // The whole address may have been pasted.
        None => sent.get("token").and_then(|text| text.rsplit('#').next()),
    };
    // Compared as hashes, so that the time taken tells nothing of the token.
    let known = blake3::hash(token.reveal().as_bytes());
    if shown.is_none_or(|shown| blake3::hash(shown.as_bytes()) != known) {
        state.metrics.count(Counter::RequestsRefused);
        let sentence = if bearer.is_none() && is_form(parts) {
            "The key is missing or is not the right one. It is in the file control-token in the data directory, and \
             in the address that rezcache prints when it starts. Paste it under “Key for changes” at the end of the \
             page, then press the button."
        } else {
            "send the header `Authorization: Bearer TOKEN` with what the file control-token in the data directory holds"
        };
        return Err(not_done(StatusCode::UNAUTHORIZED, sentence));
    }
    let Some(action) = Action::of(parts.uri.path()) else {
        let all: Vec<_> = Action::ALL.iter().map(|(path, _)| *path).collect();
        return Err(not_done(StatusCode::NOT_FOUND, format!("there is {}", all.join(", "))));
    };
    let fields = sent.or(query);
    match action {
        Action::Join => join(state, &fields).await?,
        _ => act(state, action, &fields)?,
    }
    Ok(action)
}

/// Takes in a join line. It is a secret, and is said again nowhere.
async fn join(state: &ControlState, fields: &Fields) -> Result<(), NotDone> {
    let Some(lan) = state.lan.clone() else {
        return Err(not_done(StatusCode::NOT_FOUND, "Shared caches at home cannot be joined here."));
    };
    let Some(line) = fields.get("line").filter(|line| !line.is_empty()).map(ToOwned::to_owned) else {
        return Err(not_done(StatusCode::BAD_REQUEST, "Paste the join line of the shared cache first."));
    };
    let upload = Some(fields.get("upload") == Some("yes"));
    match tokio::task::spawn_blocking(move || lan.join(&line, upload)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error @ JoinError::Line(_))) => Err(not_done(StatusCode::BAD_REQUEST, error.to_string())),
        Ok(Err(error @ JoinError::Remember(_))) => Err(not_done(StatusCode::CONFLICT, error.to_string())),
        Err(_) => Err(not_done(StatusCode::INTERNAL_SERVER_ERROR, "The join line could not be dealt with.")),
    }
}

fn act(state: &ControlState, action: Action, fields: &Fields) -> Result<(), NotDone> {
    match action {
        Action::Key => Ok(()),
        Action::UploadsPause | Action::UploadsResume | Action::UploadsLimit => uploads(state, action, fields),
        Action::StoreClear => {
            if fields.get("sure") != Some("yes") {
                let sentence =
                    "Nothing was removed: tick the box beside the button to confirm (scripts send sure=yes).";
                return Err(not_done(StatusCode::BAD_REQUEST, sentence));
            }
            state.clear();
            Ok(())
        }
        Action::StoreSize => {
            let asked = match (fields.number("bytes"), fields.number("mebibytes")) {
                (Some(bytes), _) => Some(bytes),
                (None, Some(mebibytes)) => mebibytes.checked_mul(1 << 20),
                (None, None) => None,
            };
            let size = asked.filter(|size| SIZES.contains(size)).ok_or_else(|| {
                not_done(
                    StatusCode::BAD_REQUEST,
                    "Say a whole number of MiB, at least 64 and at most 16777216 (scripts send bytes=N).",
                )
            })?;
            if state.cache.stats().disk_limit == 0 {
                return Err(not_done(
                    StatusCode::CONFLICT,
                    "There is no store on disk whose size could be set.",
                ));
            }
            state.resize(size);
            Ok(())
        }
        Action::RegionPin | Action::RegionUnpin | Action::RegionWarm => region(state, action, fields),
        Action::RegionStop => {
            state.prewarm()?.stop();
            Ok(())
        }
        Action::Join => Ok(()),
        Action::SelfTest => match state.self_test() {
            true => Ok(()),
            false => Err(not_done(StatusCode::NOT_FOUND, "There is no self-test in this rezcache.")),
        },
    }
}

fn uploads(state: &ControlState, action: Action, fields: &Fields) -> Result<(), NotDone> {
    let Some(uploads) = state.service.uploads() else {
        return Err(not_done(StatusCode::NOT_FOUND, "nothing is uploaded"));
    };
    match action {
        Action::UploadsPause => uploads.pause(),
        Action::UploadsResume => uploads.resume(),
        _ => {
            let rate = match (fields.number("bytes_per_second"), fields.number("kilobytes_per_second")) {
                (Some(bytes), _) => Some(bytes),
                (None, Some(kilobytes)) => kilobytes.checked_mul(1000),
                (None, None) => None,
            };
            match rate {
                Some(0) => uploads.set_limit(None),
                Some(rate @ 1000..) => uploads.set_limit(Some(rate)),
                _ => {
                    return Err(not_done(
                        StatusCode::BAD_REQUEST,
                        "Say a whole number of kilobytes a second, or 0 for no limit (scripts send \
                         bytes_per_second=N with N at least 1000, or 0).",
                    ));
                }
            }
        }
    }
    Ok(())
}

fn region(state: &ControlState, action: Action, fields: &Fields) -> Result<(), NotDone> {
    let id = fields.get("region").unwrap_or_default();
    let Some(region) = state.chronicle.with_book(|book| book.find(id).map(|(key, _)| key.clone())) else {
        let sentence =
            "This region is not known (any more); visit it, then try again (regions.json has their ids).";
        return Err(not_done(StatusCode::NOT_FOUND, sentence));
    };
    let conflict = |sentence: String| not_done(StatusCode::CONFLICT, sentence);
    match action {
        Action::RegionWarm => state.prewarm()?.start(&region).map_err(|error| conflict(error.to_string())),
        _ => {
            let pinned = action == Action::RegionPin;
            state.chronicle.pin(&region, pinned).map_err(|error| conflict(error.to_string()))
        }
    }
}

impl ControlState {
    fn prewarm(&self) -> Result<&crate::proxy::prewarm::Prewarm, NotDone> {
        self.prewarm
            .as_deref()
            .ok_or_else(|| not_done(StatusCode::NOT_FOUND, "Regions cannot be warmed up here."))
    }
}
