//! What a node and its commands say of tokens, keys and people: nothing, however much is logged.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use rezcache::client::ServiceClient;
use rezcache::client::address::ServerAddress;
use rezcache::client::credentials::Credentials;
use rezcache::token::SigningKey;
use serde_json::Value;

use crate::access::{key, read, share, texture};
use crate::support::operator::Operator;

/// The real program, its log in a file; ends when dropped.
struct Serving {
    process: std::process::Child,
    address: ServerAddress,
    log: std::path::PathBuf,
}

impl Serving {
    fn start(folder: &std::path::Path, arguments: &[&str]) -> Self {
        let log = folder.join("log");
        let mut process = Command::new(env!("CARGO_BIN_EXE_rezcache"))
            .args(["serve", "-vv", "--log-format", "json", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(folder.join("data"))
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("it did not start: {}", std::fs::read_to_string(&log).unwrap()));
        let text = |name: &str| ready[name].as_str().unwrap().to_owned();
        let address = format!("https://{}#pin={}", text("listening"), text("pin")).parse().unwrap();
        Self { process, address, log }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_tokens_nor_keys_nor_who_reads_what_are_logged_or_shown() {
    let folder = tempfile::tempdir().unwrap();
    let operator = Operator::new(folder.path());
    let serving = Serving::start(
        folder.path(),
        &["--token-keys", operator.public.to_str().unwrap(), "--enroll", "--trusted-tenants", "school"],
    );
    let client = |token: &str| ServiceClient::new(serving.address.clone(), Some(token.to_owned())).unwrap();
    let good = operator.token("subject-of-the-test", "school", "read,write,observe");
    let stranger = SigningKey::from_seed(&[99; 32]).unwrap();
    let forged = rezcache::token::sign(&stranger, &operator.claims("forger-of-the-test", "school", "read"));
    let (asset, bytes) = (key(0x1234_5678_9abc_4def_8123_4567_89ab_cdef), texture(1, 900));
    share(&client(&good), &asset, "a", &bytes).await.unwrap();
    assert_eq!(read(&client(&good), &asset, "a").await, Ok(Some(bytes.to_vec())));
    assert!(read(&client(&forged), &asset, "a").await.is_err());
    let own = Credentials::own(&folder.path().join("home"), &serving.address).unwrap();
    let resident = ServiceClient::with_credentials(serving.address.clone(), own).unwrap();
    assert_eq!(read(&resident, &asset, "a").await, Ok(None));
    let own_name = resident.principal().to_owned();
    assert!(own_name.starts_with("own-"));

    let mut pages = String::new();
    let root = format!("https://{}", serving.address.authority());
    for path in ["/v1/node", "/metrics", "/v1/service", "/openapi.json"] {
        for token in [&good, &forged] {
            let header = format!("Authorization: Bearer {token}");
            let mut curl = Command::new("curl");
            curl.args(["-skv", "-H", &header]).arg(format!("{root}{path}"));
            let output = tokio::task::spawn_blocking(move || curl.output().unwrap()).await.unwrap();
            pages.push_str(&String::from_utf8_lossy(&output.stdout));
        }
    }
    let home = std::fs::read_dir(folder.path().join("home/service-keys")).unwrap().next().unwrap().unwrap();
    let own_key = std::fs::read_to_string(home.path()).unwrap();
    let log = std::fs::read_to_string(&serving.log).unwrap();
    assert!(
        log.contains("made a key file") && pages.contains("hit_ratio"),
        "{log}
{pages}"
    );
    let mut secrets = vec![own_key.lines().nth(1).unwrap().to_owned()];
    secrets.push(operator.key.pem().reveal().lines().nth(1).unwrap().to_owned());
    for token in [&good, &forged] {
        secrets.extend(token.split('.').skip(1).map(str::to_owned));
    }
    // Who they are is nobody's secret, but what they ask for is.
    let people = ["subject-of-the-test", "forger-of-the-test", &own_name];
    secrets.extend(people.map(str::to_owned));
    secrets.push(asset.id.0.to_string());
    for secret in secrets {
        for text in [&log, &pages] {
            assert!(!text.contains(&secret), "{secret} in {text}");
        }
    }
}
