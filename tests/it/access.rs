//! Who may do what at the shared cache: real nodes, real clients, real tokens.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use rezcache::asset::{AssetId, AssetKey, AssetKind, Digest};
use rezcache::client::credentials::Credentials;
use rezcache::client::{CallError, Face, ServiceClient};
use rezcache::grid::{GridId, Origin};
use rezcache::node::{GridPolicy, Node, NodeConfig, StartError};
use rezcache::token::{self, Claims, SigningKey};
use rezcache::wire::OriginHash;
use rezcache::wire::frame::{Codec, Verdict};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::cli::rezcache;
use crate::support::operator::{Operator, client, client_at, from_network, now};
use crate::support::synthetic::Synthetic;

pub(crate) const GRID: &str = "grid.example:8002";

pub(crate) fn key(number: u128) -> AssetKey {
    AssetKey { grid: GridId::new(GRID), kind: AssetKind::Texture, id: AssetId(Uuid::from_u128(number)) }
}

pub(crate) fn origin(host: &str) -> Option<OriginHash> {
    Some(OriginHash::of(&GridId::new(GRID), &Origin::new(host)))
}

pub(crate) fn texture(number: usize, size: usize) -> Bytes {
    Bytes::from(Synthetic::new(9, number * 8, size).bytes.to_vec())
}

/// Attests, and uploads when the body is wanted.
pub(crate) async fn share(
    client: &ServiceClient,
    key: &AssetKey,
    host: &str,
    bytes: &Bytes,
) -> Result<Verdict, CallError> {
    let digest = Digest::of(bytes);
    match client.attest(key, origin(host), digest, bytes).await? {
        Verdict::Waiting { want_body: true } => {
            client.put(key, origin(host), digest, Codec::Raw, bytes.clone()).await
        }
        verdict => Ok(verdict),
    }
}

pub(crate) async fn read(
    client: &ServiceClient,
    key: &AssetKey,
    host: &str,
) -> Result<Option<Vec<u8>>, CallError> {
    let Some(mut body) = client.read(key, origin(host), None).await? else { return Ok(None) };
    let mut bytes = Vec::new();
    while let Some(part) = body.next().await? {
        bytes.extend_from_slice(&part);
    }
    Ok(Some(bytes))
}

pub(crate) fn status<T: std::fmt::Debug>(result: Result<T, CallError>) -> u16 {
    match result {
        Err(CallError::Refused { status, .. }) => status,
        Err(CallError::Busy { .. }) => 503,
        other => panic!("{other:?}"),
    }
}

/// A request as curl makes it: status and body.
async fn curl(node: &Node, path: &str, token: Option<&str>, arguments: &[&str]) -> (u16, String) {
    let scheme = if node.pin().is_some() { "https" } else { "http" };
    let mut command = Command::new("curl");
    command.args(["-sk", "-w", "\n%{http_code}"]).args(arguments);
    command.arg(format!("{scheme}://{}{path}", node.address()));
    if let Some(token) = token {
        command.args(["-H", &format!("Authorization: Bearer {token}")]);
    }
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

async fn json_of(node: &Node, path: &str, token: Option<&str>, arguments: &[&str]) -> (u16, Value) {
    let (status, body) = curl(node, path, token, arguments).await;
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_only_when_it_is_clear_who_may_do_what() {
    let folder = tempfile::tempdir().unwrap();
    let operator = Operator::new(folder.path());
    let base = NodeConfig { key_file: folder.path().join("key"), ..NodeConfig::default() };
    let error = async |config: NodeConfig| Node::start(config).await.err().unwrap();
    let any = "0.0.0.0:0".parse().unwrap();
    let public = "203.0.113.9:8443".parse().unwrap();
    let gated = NodeConfig { token_keys: vec![operator.public.clone()], ..base.clone() };

    let bare = error(NodeConfig { listen: any, ..base.clone() }).await;
    assert!(matches!(bare, StartError::Open(_)), "{bare}");
    assert!(bare.to_string().contains("--token-keys") && bare.to_string().contains("--enroll"));
    let nobody = error(NodeConfig { listen: public, ..gated.clone() }).await;
    assert!(matches!(nobody, StartError::NoContact(_)) && nobody.to_string().contains("--abuse-contact"));
    let nobody = error(NodeConfig { listen: public, open_access: true, ..base.clone() }).await;
    assert!(matches!(nobody, StartError::NoContact(_)), "{nobody}");
    let plain = error(NodeConfig { listen: any, plain_http: true, ..gated.clone() }).await;
    assert!(matches!(plain, StartError::PlainTokens(_)), "{plain}");
    let trusting = vec![token::RESIDENTS.to_owned()];
    let residents = error(NodeConfig { enroll: true, trusted_tenants: trusting, ..base.clone() }).await;
    assert!(matches!(residents, StartError::TrustedResidents), "{residents}");
    let private = folder.path().join("private");
    std::fs::write(&private, operator.key.pem().reveal()).unwrap();
    let wrong = error(NodeConfig { token_keys: vec![private], ..base.clone() }).await.to_string();
    assert!(wrong.contains("private key") && !wrong.contains("BEGIN"), "{wrong}");

    for fine in [
        NodeConfig { listen: any, ..gated.clone() },
        NodeConfig { listen: any, enroll: true, ..base.clone() },
        NodeConfig { listen: any, open_access: true, ..base.clone() },
        NodeConfig { plain_http: true, ..gated },
    ] {
        Node::start(fine).await.unwrap().stop().await;
    }
    // Nothing listens on an address that is not ours, so this is as far as the rules go.
    let contact = Some("abuse@example.org".to_owned());
    let there = error(NodeConfig { listen: public, abuse_contact: contact, enroll: true, ..base }).await;
    assert!(matches!(there, StartError::Listen { .. }), "{there}");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_access_of_a_public_node_opens_reading_only() {
    let folder = tempfile::tempdir().unwrap();
    let operator = Operator::new(folder.path());
    let grids =
        vec![GridPolicy { id: GridId::new(GRID), publish: true, central: true, asset_hosts: Vec::new() }];
    let node = Node::start(NodeConfig {
        open_access: true,
        abuse_contact: Some("abuse@example.org".into()),
        grids,
        ..operator.config(folder.path())
    })
    .await
    .unwrap();
    let (bytes, key) = (texture(1, 900), key(1));
    let bot = client(&node, Some(operator.token("bot", "grid", "write,vouch")));
    assert_eq!(share(&bot, &key, "sim.example", &bytes).await, Ok(Verdict::Published));
    let stranger = client(&node, None);
    assert_eq!(read(&stranger, &key, "sim.example").await, Ok(Some(bytes.to_vec())));
    assert_eq!(status(share(&stranger, &key, "sim.example", &bytes).await), 401);
    assert_eq!(curl(&node, "/v1/node/drain", None, &["-X", "POST"]).await.0, 403);
    let (code, about) = json_of(&node, "/v1/service", None, &[]).await;
    assert_eq!(
        (code, &about["abuse_contact"], &about["enroll"]),
        (200, &json!("abuse@example.org"), &json!(false))
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_right_opens_its_own_door() {
    let folder = tempfile::tempdir().unwrap();
    let operator = Operator::new(folder.path());
    let node =
        Node::start(NodeConfig { trusted_tenants: vec!["school".into()], ..operator.config(folder.path()) })
            .await
            .unwrap();
    let (bytes, key) = (texture(1, 900), key(1));
    let token = |rights: &str| operator.token(&format!("with {rights}").replace(' ', "-"), "school", rights);
    let with = |rights: &str| client(&node, Some(token(rights)));
    let path = format!("/v1/grids/{GRID}/assets/texture/{}", key.id.0);

    // Without a token nothing but health and how to introduce oneself; looking from this machine.
    assert_eq!(status(read(&client(&node, None), &key, "a").await), 401);
    assert_eq!(curl(&node, &path, None, &[]).await.0, 401);
    for (open, code) in [("/healthz", 200), ("/v1/service", 200), ("/v1/node", 200), ("/metrics", 200)] {
        assert_eq!(curl(&node, open, None, &[]).await.0, code, "{open}");
    }

    assert_eq!(status(share(&with("read"), &key, "a", &bytes).await), 403);
    assert_eq!(
        status(with("read").put(&key, None, Digest::of(&bytes), Codec::Raw, bytes.clone()).await),
        403
    );
    assert_eq!(share(&with("write"), &key, "a", &bytes).await, Ok(Verdict::Published));
    for rights in ["write", "vouch", "observe", "admin"] {
        assert_eq!(status(read(&with(rights), &key, "a").await), 403, "{rights}");
        let looked = with(rights).lookup(&key.grid, None, vec![(key.kind, key.id)]).await;
        assert_eq!(status(looked), 403, "{rights}");
        assert_eq!(curl(&node, &path, Some(&token(rights)), &[]).await.0, 403, "{rights}");
    }
    assert_eq!(read(&with("read"), &key, "a").await, Ok(Some(bytes.to_vec())));
    for rights in ["read", "write", "vouch", "observe", "read,write,vouch,observe"] {
        let token = token(rights);
        assert_eq!(curl(&node, &path, Some(&token), &["-X", "DELETE"]).await.0, 403, "{rights}");
        assert_eq!(curl(&node, "/v1/node/drain", Some(&token), &["-X", "POST"]).await.0, 403, "{rights}");
    }
    // The same digest by another member of the tenant is nothing new; another tenant sees nothing of it.
    let other = client(&node, Some(operator.token("someone", "elsewhere", "read,write")));
    assert_eq!(read(&other, &key, "a").await, Ok(None));

    let admin = token("admin");
    assert_eq!(curl(&node, &format!("{path}?dry_run"), Some(&admin), &["-X", "DELETE"]).await.0, 200);
    assert_eq!(read(&with("read"), &key, "a").await, Ok(Some(bytes.to_vec())), "it was a rehearsal");
    assert_eq!(curl(&node, &path, Some(&admin), &["-X", "DELETE"]).await.0, 200);
    assert_eq!(read(&with("read"), &key, "a").await, Ok(None));
    assert_eq!(curl(&node, "/v1/node/drain", Some(&admin), &["-X", "POST"]).await.0, 202);
    node.asked_to_go().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_one_grid_is_worth_nothing_on_another() {
    let folder = tempfile::tempdir().unwrap();
    let operator = Operator::new(folder.path());
    let node =
        Node::start(NodeConfig { trusted_tenants: vec!["school".into()], ..operator.config(folder.path()) })
            .await
            .unwrap();
    let only = |grid: &str, rights: &str| {
        let claims =
            Claims { grids: Some([GridId::new(grid)].into()), ..operator.claims("pupil", "school", rights) };
        operator.sign(&claims)
    };
    let (bytes, key) = (texture(1, 900), key(1));
    let here = client(&node, Some(only(GRID, "read,write")));
    let there = client(&node, Some(only("other.example", "read,write")));
    assert_eq!(status(share(&there, &key, "a", &bytes).await), 403);
    assert_eq!(share(&here, &key, "a", &bytes).await, Ok(Verdict::Published));
    // Not told from an asset that is not there.
    assert_eq!(read(&there, &key, "a").await, Ok(None));
    assert_eq!(there.lookup(&key.grid, origin("a"), vec![(key.kind, key.id)]).await, Ok(vec![None]));
    assert_eq!(read(&here, &key, "a").await, Ok(Some(bytes.to_vec())));
    let path = format!("/v1/grids/{GRID}/assets/texture/{}", key.id.0);
    let content = format!("/v1/contents/{}", rezcache::wire::DigestText(Digest::of(&bytes)));
    let (foreign, own) = (only("other.example", "admin"), only(GRID, "admin"));
    assert_eq!(curl(&node, &path, Some(&foreign), &["-X", "DELETE"]).await.0, 403);
    // A content may be an asset of any grid.
    assert_eq!(curl(&node, &content, Some(&own), &["-X", "DELETE"]).await.0, 403);
    assert_eq!(curl(&node, &path, Some(&own), &["-X", "DELETE"]).await.0, 200);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_valid_token_is_refused_by_both_faces() {
    let folder = tempfile::tempdir().unwrap();
    let operator = Operator::new(folder.path());
    let node = Node::start(operator.config(folder.path())).await.unwrap();
    let good = operator.token("somebody", "home", "read,write");
    let claims = operator.claims("somebody", "home", "read,write");
    let part = |index: usize| good.split('.').nth(index).unwrap().to_owned();
    let none = format!("{}.{}.", base64url(br#"{"alg":"none","typ":"JWT","kid":"x"}"#), part(1));
    let hs256 = format!("{}.{}.{}", base64url(br#"{"alg":"HS256","typ":"JWT","kid":"x"}"#), part(1), part(2));
    let stranger = SigningKey::from_seed(&[99; 32]).unwrap();
    let wrong = [
        ("none", none),
        ("HS256", hs256),
        ("cut", good[..good.len() - 4].to_owned()),
        ("padded", format!("{good}==")),
        ("four parts", format!("{good}.{}", part(2))),
        ("another body", format!("{}.{}.{}", part(0), base64url(br#"{"sub":"x"}"#), part(2))),
        ("expired", operator.sign(&Claims { expires: now() - 1, ..claims.clone() })),
        ("another service", operator.sign(&Claims { audience: "other".into(), ..claims.clone() })),
        ("another key", token::sign(&stranger, &claims)),
        ("own key, no enrolment", token::sign_own(&stranger, "rezcache", "x".into(), now(), 60)),
    ];
    let path = format!("/v1/grids/{GRID}/assets/texture/{}", key(1).id.0);
    for (what, token) in wrong {
        assert_eq!(curl(&node, &path, Some(&token), &[]).await.0, 401, "{what}");
        // A client that shows it without looking: the subject that it finds in there matters to nobody.
        if let Ok(client) = ServiceClient::new(
            format!("https://{}#pin={}", node.address(), node.pin().unwrap()).parse().unwrap(),
            Some(token),
        ) {
            assert_eq!(status(read(&client, &key(1), "a").await), 401, "{what}");
            assert_eq!(client.face(), Face::Quic, "{what}");
        }
    }
    let client = client(&node, Some(good));
    assert_eq!(read(&client, &key(1), "a").await, Ok(None));
    assert_eq!(client.principal(), "somebody");
    node.stop().await;
}

fn base64url(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// Asks again and again until a token is refused, at most for the time that is promised.
async fn until_refused(client: &ServiceClient) -> Result<(), tokio::time::error::Elapsed> {
    tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            match read(client, &key(404), "a").await {
                Err(CallError::Refused { status: 401, .. }) => return,
                other => assert_eq!(other, Ok(None)),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_is_refused_by_every_node_within_10_s() {
    let folder = tempfile::tempdir().unwrap();
    let operator = Operator::new(folder.path());
    let one = Node::start(operator.config(folder.path())).await.unwrap();
    let two = Node::start(operator.config(folder.path())).await.unwrap();
    let store = format!("file://{}", folder.path().join("store").display());
    for (flag, subject, tenant) in
        [("--id", "by-id", "a"), ("--subject", "by-subject", "b"), ("--tenant", "by-tenant", "c")]
    {
        let claims = operator.claims(subject, tenant, "read,write");
        let value = match flag {
            "--id" => claims.id.to_string(),
            "--subject" => subject.to_owned(),
            _ => tenant.to_owned(),
        };
        let token = operator.sign(&claims);
        let clients = [client(&one, Some(token.clone())), client(&two, Some(token))];
        let bystanders = [&one, &two]
            .map(|node| client(node, Some(operator.token(&format!("not-{subject}"), "d", "read"))));
        for client in clients.iter().chain(&bystanders) {
            assert_eq!(read(client, &key(1), "a").await, Ok(None));
        }
        let revoked = rezcache(&["token", "revoke", flag, &value, "--store", &store]);
        assert_eq!(revoked.code, 0, "{revoked:?}");
        for client in &clients {
            // Over a connection on which it is known, and over a new one.
            until_refused(client).await.expect(flag);
        }
        for client in &bystanders {
            assert_eq!(read(client, &key(1), "a").await, Ok(None));
        }
    }
    one.stop().await;
    // One that starts later knows at once.
    let three = Node::start(operator.config(folder.path())).await.unwrap();
    let token = operator.token("by-subject", "e", "read");
    assert_eq!(status(read(&client(&three, Some(token)), &key(1), "a").await), 401);
    two.stop().await;
    three.stop().await;
    let nowhere = rezcache(&["token", "revoke", "--id", "x", "--store", "file:///nonexistent/store"]);
    assert!(nowhere.code != 0 && nowhere.err.contains("no catalog"), "{nowhere:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_makes_keys_and_tokens_that_a_node_takes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.key");
    let file = path.to_str().unwrap();
    let made = rezcache(&["token", "keygen", "--signing-key", file]);
    assert_eq!(made.code, 0, "{made:?}");
    assert_ne!(rezcache(&["token", "keygen", "--signing-key", file]).code, 0, "a key is never replaced");
    assert!(!made.out.contains("BEGIN"));
    let private = |path: &Path| {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    };
    private(&path);
    let new = |arguments: &[&str]| {
        let run = rezcache(&[&["token", "new", "--signing-key", file], arguments].concat());
        assert_eq!(run.code, 0, "{run:?}");
        run.out.trim().to_owned()
    };
    let token = new(&["--tenant", "school", "--subject", "desk-7", "--rights", "read,write", "--grid", GRID]);
    let other = new(&["--tenant", "school", "--expires", "12h"]);
    private(&folder.path().join("tokens.key.ledger"));
    let ledger = std::fs::read_to_string(folder.path().join("tokens.key.ledger")).unwrap();
    assert!(ledger.lines().count() == 2 && !ledger.contains(&token) && !ledger.contains(&other));
    for wrong in [
        &["--tenant", "school", "--rights", "everything"][..],
        &["--tenant", "school", "--expires", "forever"],
        &["--tenant", "two words"],
    ] {
        assert_ne!(
            rezcache(&[&["token", "new", "--signing-key", file], wrong].concat()).code,
            0,
            "{wrong:?}"
        );
    }

    let public = folder.path().join("tokens.key.pub");
    let node = Node::start(NodeConfig {
        token_keys: vec![public],
        trusted_tenants: vec!["school".into()],
        ..Operator::new(folder.path()).config(folder.path())
    })
    .await
    .unwrap();
    let (desk, teacher) = (client(&node, Some(token)), client(&node, Some(other)));
    let bytes = texture(1, 900);
    assert_eq!(share(&desk, &key(1), "a", &bytes).await, Ok(Verdict::Published));
    assert_eq!(read(&teacher, &key(1), "a").await, Ok(Some(bytes.to_vec())));
    assert_eq!((desk.principal(), teacher.principal().starts_with("p-")), ("desk-7", true));

    let store = format!("file://{}", folder.path().join("store").display());
    let gone =
        rezcache(&["token", "revoke", "--subject", "desk-7", "--store", &store, "--signing-key", file]);
    assert_eq!(gone.code, 0, "{gone:?}");
    let list = rezcache(&["token", "list", "--signing-key", file, "--json"]).out;
    let lines: Vec<Value> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["revoked"], &lines[1]["revoked"]), (2, &json!(true), &json!(false)));
    assert!(rezcache(&["token", "list", "--signing-key", file]).out.contains("revoked"));
    until_refused(&desk).await.unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resident_enrols_and_needs_no_operator() {
    let folder = tempfile::tempdir().unwrap();
    let operator = Operator::new(folder.path());
    let node =
        Node::start(NodeConfig { token_keys: Vec::new(), enroll: true, ..operator.config(folder.path()) })
            .await
            .unwrap();
    let address =
        |at: std::net::SocketAddr| format!("https://{at}#pin={}", node.pin().unwrap()).parse().unwrap();
    let resident = |at, home: &str| {
        let credentials = Credentials::own(&folder.path().join(home), &address(at)).unwrap();
        ServiceClient::with_credentials(address(at), credentials).unwrap()
    };
    let first = resident(node.address(), "one");
    assert_eq!(first.principal(), "", "nobody was asked yet");
    assert_eq!(read(&first, &key(1), "a").await, Ok(None));
    let name = first.principal().to_owned();
    assert!(name.starts_with("own-") && first.face() == Face::Quic);
    let bytes = texture(1, 900);
    // It may write, and is believed by nobody yet.
    assert_eq!(share(&first, &key(1), "a", &bytes).await, Ok(Verdict::Waiting { want_body: false }));
    assert_eq!(read(&first, &key(1), "a").await, Ok(None));
    // The same key after a restart is the same resident.
    let again = resident(node.address(), "one");
    assert_eq!(read(&again, &key(1), "a").await, Ok(None));
    assert_eq!(again.principal(), name);
    for home in ["two", "three"] {
        let other = resident(node.address(), home);
        assert_eq!(read(&other, &key(1), "a").await, Ok(None));
        assert_ne!(other.principal(), name);
    }
    let fourth = resident(node.address(), "four");
    let refused = read(&fourth, &key(1), "a").await;
    let Err(CallError::Refused { status: 429, retry_after: Some(wait), .. }) = refused else {
        panic!("{refused:?}")
    };
    assert!(wait <= Duration::from_secs(86_400));
    // From another network there is room.
    let elsewhere = resident(from_network(node.address(), 7).await, "five");
    assert_eq!(read(&elsewhere, &key(1), "a").await, Ok(None));

    // Where everybody may read, whoever wants to write introduces itself then.
    let public = tempfile::tempdir().unwrap();
    let open = Node::start(NodeConfig {
        token_keys: Vec::new(),
        enroll: true,
        open_access: true,
        abuse_contact: Some("abuse@example.org".into()),
        ..operator.config(public.path())
    })
    .await
    .unwrap();
    let address: rezcache::client::address::ServerAddress =
        format!("https://{}#pin={}", open.address(), open.pin().unwrap()).parse().unwrap();
    let credentials = Credentials::own(public.path(), &address).unwrap();
    let guest = ServiceClient::with_credentials(address, credentials).unwrap();
    assert_eq!((read(&guest, &key(1), "a").await, guest.principal()), (Ok(None), ""));
    assert_eq!(share(&guest, &key(1), "a", &bytes).await, Ok(Verdict::Waiting { want_body: false }));
    assert!(guest.principal().starts_with("own-") && guest.face() == Face::Quic);
    open.stop().await;

    // One that the node has never heard of, and one that claims more than it has.
    let unknown = SigningKey::from_seed(&[5; 32]).unwrap();
    let own = token::sign_own(&unknown, "rezcache", "x".into(), now(), 60);
    assert_eq!(status(read(&client(&node, Some(own)), &key(1), "a").await), 401);
    // Revoked like anybody else.
    let store = format!("file://{}", folder.path().join("store").display());
    assert_eq!(rezcache(&["token", "revoke", "--subject", &name, "--store", &store]).code, 0);
    until_refused(&first).await.unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_enrolment_meets_a_resident_as_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(NodeConfig {
        token_keys: Vec::new(),
        open_access: true,
        ..Operator::new(folder.path()).config(folder.path())
    })
    .await
    .unwrap();
    let address: rezcache::client::address::ServerAddress =
        format!("https://{}#pin={}", node.address(), node.pin().unwrap()).parse().unwrap();
    let credentials = Credentials::own(folder.path(), &address).unwrap();
    let resident = ServiceClient::with_credentials(address, credentials).unwrap();
    let bytes = texture(1, 900);
    assert_eq!(share(&resident, &key(1), "a", &bytes).await, Ok(Verdict::Published));
    assert_eq!(read(&resident, &key(1), "a").await, Ok(Some(bytes.to_vec())));
    let (code, _) = curl(&node, "/v1/enroll", None, &[]).await;
    assert_eq!(code, 404);
    node.stop().await;
}

#[test]
fn a_token_is_never_sent_in_the_open() {
    let folder = tempfile::tempdir().unwrap();
    let token = Operator::new(folder.path()).token("somebody", "home", "read");
    let new = |url: &str, token: Option<String>| ServiceClient::new(url.parse().unwrap(), token).err();
    for open in ["http://192.168.1.5:8443", "http://cache.home:8443"] {
        assert_eq!(new(open, Some(token.clone())), Some(CallError::PlainToken), "{open}");
        assert_eq!(new(open, None), None);
        // A key of our own stays at home.
        let address: rezcache::client::address::ServerAddress = open.parse().unwrap();
        let credentials = Credentials::own(folder.path(), &address).unwrap();
        let client = ServiceClient::with_credentials(address, credentials).unwrap();
        assert_eq!(client.principal(), "");
    }
    for private in
        ["http://127.0.0.1:8443", "http://localhost:8443", "http://[::1]:8443", "https://cache.example"]
    {
        assert_eq!(new(private, Some(token.clone())), None, "{private}");
    }
    assert_eq!(new("https://cache.example", Some("hunter2".into())), Some(CallError::NotAToken));
}

/// A token that runs out while the connection lives is shown anew, and a new one in its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_outlives_no_token() {
    let folder = tempfile::tempdir().unwrap();
    let operator = Operator::new(folder.path());
    let node = Node::start(operator.config(folder.path())).await.unwrap();
    let claims = Claims { expires: now() + 3, ..operator.claims("short", "home", "read") };
    let short = client_at(node.address(), &node, Some(operator.sign(&claims)));
    assert_eq!(read(&short, &key(1), "a").await, Ok(None));
    until_refused(&short).await.unwrap();
    assert_eq!(short.face(), Face::Quic);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_over_budget_is_told_when_to_come_again_and_nobody_else_is_harmed() {
    // Budgets are of hours and days: not while one turns.
    let rest = 3600 - now() % 3600;
    if rest < 20 {
        tokio::time::sleep(Duration::from_secs(rest)).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let operator = Operator::new(folder.path());
    let node =
        Node::start(NodeConfig { trusted_tenants: vec!["school".into()], ..operator.config(folder.path()) })
            .await
            .unwrap();
    let with = |subject: &str, budgets: token::Budgets| {
        operator.sign(&Claims { budgets, ..operator.claims(subject, "school", "read,write") })
    };
    let bytes = texture(1, 20_000);
    let honest = client(&node, Some(operator.token("honest", "school", "read,write")));
    assert_eq!(share(&honest, &key(1), "a", &bytes).await, Ok(Verdict::Published));

    for number in 2..=60 {
        assert_eq!(share(&honest, &key(number), "a", &bytes).await, Ok(Verdict::Published));
    }
    let few = token::Budgets { assets_per_hour: Some(40), ..token::Budgets::default() };
    let token = with("greedy", few);
    let greedy = client(&node, Some(token.clone()));
    let mut wanted: Vec<u128> = (1..=60).collect();
    // A slice of the budget comes beside the requests: until nothing changes any more.
    let mut idle = 0;
    while idle < 10 {
        let before = wanted.len();
        let mut refused = Vec::new();
        for number in wanted {
            match read(&greedy, &key(number), "a").await {
                Ok(found) => assert_eq!(found.as_deref(), Some(&bytes[..])),
                Err(CallError::Refused { status: 429, retry_after: Some(wait), .. }) => {
                    assert!(wait <= Duration::from_secs(3600));
                    refused.push(number);
                }
                other => panic!("{other:?}"),
            }
        }
        wanted = refused;
        idle = if wanted.len() == before { idle + 1 } else { 0 };
        assert!(read(&honest, &key(1), "a").await.unwrap().is_some());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!((20..=24).contains(&wanted.len()), "{} of 60 refused", wanted.len());
    // What it asked for before it may have again, and the other face says the same.
    let had = (1..=60).find(|number| !wanted.contains(number)).unwrap();
    assert!(read(&greedy, &key(had), "a").await.unwrap().is_some());
    let path = |number: u128| format!("/v1/grids/{GRID}/assets/texture/{}", key(number).id.0);
    let (code, answer) = curl(&node, &path(wanted[0]), Some(&token), &["-i"]).await;
    assert_eq!(code, 429);
    assert!(answer.to_ascii_lowercase().contains("\r\nretry-after: "), "{answer}");
    let lookup = greedy.lookup(&GridId::new(GRID), None, vec![(AssetKind::Texture, key(wanted[0]).id)]).await;
    assert_eq!(status(lookup), 429);

    // Bytes: some downloads, then no more today; and so with what is stored.
    let little = token::Budgets { bytes_per_day: Some(200_000), ..token::Budgets::default() };
    let reader = client(&node, Some(with("reader", little)));
    let (mut served, mut idle) = (0, 0);
    while idle < 10 {
        match read(&reader, &key(1), "a").await {
            Ok(Some(_)) => (served, idle) = (served + 1, 0),
            other => {
                assert_eq!(status(other), 429);
                idle += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    assert_eq!(served, 200_000 / bytes.len());
    let little = token::Budgets { stored_bytes: Some(200_000), ..token::Budgets::default() };
    let writer = client(&node, Some(with("writer", little)));
    let (mut stored, mut idle) = (0, 0);
    while idle < 10 {
        let number = 100 + stored;
        let body = texture(number, 20_000);
        match share(&writer, &key(number as u128), "a", &body).await {
            Ok(Verdict::Published) => (stored, idle) = (stored + 1, 0),
            other => {
                assert_eq!(status(other), 429);
                idle += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    assert!((2..=10).contains(&stored), "{stored}");
    let (_, report) = json_of(&node, "/v1/node", None, &[]).await;
    assert!(report["counters"]["over_budget"].as_u64().unwrap() >= 40, "{report}");
    node.stop().await;
}
