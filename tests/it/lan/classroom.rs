//! Joining, and what comes of it.

use rezcache::asset::Digest;
use rezcache::client::CallError;
use rezcache::client::credentials::Credentials;
use rezcache::client::{ServiceClient, joined};
use rezcache::node::Limits;
use rezcache::support::metrics::Counter;
use rezcache::token::{self, SigningKey};
use rezcache::wire::frame::Codec;

use super::{CONTROL_TOKEN, Home, count, fetch, member, proxy, standing, until};
use crate::access::{key, origin, read, share, texture as synthetic};
use crate::support::client::{ask, get};
use crate::support::{mesh, texture, within};

fn status(error: &CallError) -> u16 {
    match error {
        CallError::Refused { status, .. } => *status,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_proxies_join_and_what_one_misses_the_other_has() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::start(folder.path()).await;
    let line = home.line();
    let one = proxy(&[(&line, Some(true))], |_| {}).await;
    let two = proxy(&[(&line, Some(false))], |_| {}).await;
    standing(&one, "working").await;
    standing(&two, "working").await;
    assert_eq!(fetch(&one, &texture()).await, "miss");
    until(|| count(&one, Counter::UploadsSent) == 1).await;
    assert!(fetch(&two, &texture()).await.starts_with("hit; tier=service"));
    assert_eq!(fetch(&two, &mesh()).await, "miss");
    assert_eq!(count(&two, Counter::UploadsQueued), 0, "nobody has said yes");
    for setup in [one, two] {
        within(setup.proxy.stop()).await;
    }
    home.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_with_another_key_leads_nowhere_and_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::start(folder.path()).await;
    let mut line = home.line();
    line.pin = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    let setup = proxy(&[(&line, Some(true))], |_| {}).await;
    until(|| count(&setup, Counter::LanProbesFailed) >= 2).await;
    assert_eq!(setup.proxy.metrics().service(), None, "nothing is put into use");
    assert_eq!(fetch(&setup, &texture()).await, "miss");
    within(setup.proxy.stop()).await;
    // The member's folder has no key: the server was never introduced to.
    assert!(!setup.dir.path().join("service-keys").exists());
    home.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_pupils_with_one_line_have_thirty_budgets() {
    let folder = tempfile::tempdir().unwrap();
    // So much in an hour, a quarter of it before the catalog was asked. All of them together want more.
    let limits = Limits { assets_per_hour: 48, burst: 1000, ..Limits::default() };
    let home = Home::with(folder.path(), |config| config.limits = limits).await;
    let line = home.line();
    let assets: Vec<_> = (1..=60).map(|number| (key(number), synthetic(number as usize, 700))).collect();
    for (number, some) in assets.chunks(12).enumerate() {
        let teacher = member(&folder.path().join(format!("teacher-{number}")), &line);
        for (asset, bytes) in some {
            share(&teacher, asset, "a", bytes).await.unwrap();
        }
    }
    let mut pupils = tokio::task::JoinSet::new();
    for number in 0..30 {
        let folder = folder.path().join(format!("pupil-{number}"));
        let (line, assets) = (line.clone(), assets.clone());
        pupils.spawn(async move {
            let pupil = member(&folder, &line);
            for (asset, bytes) in assets.into_iter().cycle().skip(number * 2).take(12) {
                assert_eq!(read(&pupil, &asset, "a").await, Ok(Some(bytes.to_vec())), "{number}");
            }
            pupil.principal().to_owned()
        });
    }
    let names = within(pupils.join_all()).await;
    let distinct: std::collections::HashSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), 30);
    // And there is such a thing as a budget.
    let glutton = member(&folder.path().join("glutton"), &line);
    let mut refused = false;
    for number in 1..=60 {
        refused |= read(&glutton, &key(number), "a").await.is_err();
    }
    assert!(refused);
    home.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pupils_read_and_teachers_write() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::start(folder.path()).await;
    let [pupils_line, teachers_line]: [_; 2] = home.lines(true).try_into().unwrap();
    let pupil = member(&folder.path().join("pupil"), &pupils_line);
    let teacher = member(&folder.path().join("teacher"), &teachers_line);
    let (asset, bytes) = (key(1), synthetic(1, 900));
    assert_eq!(status(&share(&pupil, &asset, "a", &bytes).await.unwrap_err()), 403);
    let put = pupil.put(&asset, origin("a"), Digest::of(&bytes), Codec::Raw, bytes.clone()).await;
    assert_eq!(status(&put.unwrap_err()), 403);
    assert_eq!(read(&pupil, &asset, "a").await, Ok(None));
    share(&teacher, &asset, "a", &bytes).await.unwrap();
    assert_eq!(read(&pupil, &asset, "a").await, Ok(Some(bytes.to_vec())));

    // A pupil's proxy knows, and does not try, whatever its user has said.
    let setup = proxy(&[(&pupils_line, Some(true))], |_| {}).await;
    standing(&setup, "working").await;
    assert_eq!(fetch(&setup, &texture()).await, "miss");
    assert_eq!(count(&setup, Counter::UploadsQueued), 0);
    within(setup.proxy.stop()).await;
    home.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_line_or_a_withdrawn_one_is_not_let_in_and_members_let_nobody_in() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::start(folder.path()).await;
    let line = home.line();
    let asset = key(1);
    let at = |token: Option<String>| {
        ServiceClient::new(format!("https://{}#pin={}", line.address, line.pin).parse().unwrap(), token)
            .unwrap()
    };
    assert_eq!(status(&read(&at(None), &asset, "a").await.unwrap_err()), 401);
    // A key of one's own is not enough here.
    let own = Credentials::own(&folder.path().join("nobody"), at(None).address()).unwrap();
    let nobody = ServiceClient::with_credentials(at(None).address().clone(), own).unwrap();
    assert_eq!(status(&read(&nobody, &asset, "a").await.unwrap_err()), 401);

    let joined = member(&folder.path().join("joined"), &line);
    assert_eq!(read(&joined, &asset, "a").await, Ok(None));
    let keys = folder.path().join("joined/service-keys");
    let file = std::fs::read_dir(keys).unwrap().next().unwrap().unwrap().path();
    let member_key = SigningKey::from_pem(&std::fs::read_to_string(file).unwrap()).unwrap();
    let mut of_a_member = line.clone();
    let own_token = token::sign_own(&member_key, "rezcache", "1".into(), super::now(), 600);
    of_a_member.token = rezcache::redact::Redacted::new(own_token);
    let guest = member(&folder.path().join("guest"), &of_a_member);
    assert_eq!(status(&read(&guest, &asset, "a").await.unwrap_err()), 403);

    let id = rezcache::node::household::issued(folder.path()).unwrap().remove(0);
    home.node.revoke_token(&id).await.unwrap();
    assert_eq!(status(&read(&joined, &asset, "a").await.unwrap_err()), 401, "who joined by it is out");
    let late = member(&folder.path().join("late"), &line);
    assert_eq!(status(&read(&late, &asset, "a").await.unwrap_err()), 401, "and nobody joins by it");
    // Another line makes another member of the same proxy.
    rezcache::node::household::forget(folder.path(), &[id]).unwrap();
    let again = member(&folder.path().join("joined"), &home.line());
    assert_eq!(read(&again, &asset, "a").await, Ok(None));
    home.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_took_in_as_another_kind_of_node_does_not_hold() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::start(folder.path()).await;
    let line = home.line();
    let (asset, bytes) = (key(1), synthetic(1, 900));
    let joined = member(&folder.path().join("joined"), &line);
    share(&joined, &asset, "a", &bytes).await.unwrap();
    let address = home.node.address();
    home.node.stop().await;
    // Residents enrol now; who was a member is nobody, and the residents are nobody at home.
    let open = |config: &mut rezcache::node::NodeConfig| {
        (config.members, config.enroll, config.listen) = (false, true, address);
    };
    let public = Home::with(folder.path(), open).await;
    assert_eq!(status(&read(&joined, &asset, "a").await.unwrap_err()), 401);
    let at: rezcache::client::address::ServerAddress =
        format!("https://{address}#pin={}", line.pin).parse().unwrap();
    let own = || Credentials::own(&folder.path().join("resident"), &at).unwrap();
    let resident = ServiceClient::with_credentials(at.clone(), own()).unwrap();
    assert_eq!(read(&resident, &asset, "a").await, Ok(None));
    public.node.stop().await;
    let home = Home::with(folder.path(), |config| config.listen = address).await;
    assert_eq!(status(&read(&resident, &asset, "a").await.unwrap_err()), 401);
    let again = member(&folder.path().join("joined"), &line);
    assert_eq!(read(&again, &asset, "a").await, Ok(Some(bytes.to_vec())));
    home.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_is_pasted_on_the_page_and_never_seen_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut home = Home::start(folder.path()).await;
    home.announce();
    let line = home.line();
    let setup = proxy(&[], |_| {}).await;
    let control = setup.proxy.control_address().unwrap();
    assert_eq!(fetch(&setup, &texture()).await, "miss", "with nothing joined, viewers are served as ever");
    assert_eq!(setup.proxy.metrics().service(), None);

    let post = async |token: Option<&str>, headers: &[(&str, &str)], body: &[u8]| {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut all = headers.to_vec();
        all.extend(bearer.as_ref().map(|bearer| ("Authorization", bearer.as_str())));
        ask(control, "POST", "/join?upload=yes", &all, body).await
    };
    let text = line.reveal();
    let good = text.as_bytes();
    assert_eq!(post(None, &[], good).await.status, 401);
    assert_eq!(post(Some("wrong"), &[], good).await.status, 401);
    assert_eq!(post(Some(CONTROL_TOKEN), &[("Origin", "http://evil.example")], good).await.status, 403);
    assert_eq!(post(Some(CONTROL_TOKEN), &[("Host", "evil.example")], good).await.status, 400);
    assert_eq!(get(control, "/join", &[]).await.status, 405);
    let secret = line.token.reveal().as_str();
    for wrong in [&good[..good.len() - 120], b"hunter2", &[0xff; 20][..], &vec![b'x'; 60_000][..]] {
        let answer = post(Some(CONTROL_TOKEN), &[], wrong).await;
        assert_eq!(answer.status, 400);
        assert!(!answer.text().contains(&secret[..secret.len() / 2]), "{}", answer.text());
    }
    assert_eq!(joined::load(setup.dir.path()).unwrap(), []);

    let answer = post(Some(CONTROL_TOKEN), &[("Origin", &format!("http://{control}"))], good).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    standing(&setup, "working").await;
    assert_eq!(fetch(&setup, &mesh()).await, "miss");
    until(|| count(&setup, Counter::UploadsSent) == 1).await;
    let page = get(control, "/", &[]).await.text();
    assert!(page.contains(line.pin.short()) && page.contains("in use"), "{page}");
    let parts: Vec<_> = secret.split('.').skip(1).map(str::to_owned).collect();
    for path in ["/", "/status.json", "/metrics"] {
        let shown = get(control, path, &[]).await.text();
        assert!(parts.iter().all(|part| !shown.contains(part.as_str())), "{shown}");
    }
    within(setup.proxy.stop()).await;
    home.node.stop().await;
}
