//! Nodes by a program of the operator's: kubectl, nomad, hcloud, a script. It is run as
//!
//! - `PROGRAM ARGUMENTS… open NAME`, prints `{"url":"https://ADDRESS:PORT","addresses":["ADDRESS"],"handle":"ID"}`;
//! - `PROGRAM ARGUMENTS… close NAME HANDLE`.
//!
//! Its status says whether that worked; the last line of its error output is told to the operators.

use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use super::{Asked, ProvisionError, Provisioner, last_line};
use crate::director::NodeAddress;
use crate::fleet::array::NodeSpec;

/// A cloud takes minutes to start a machine, but not to say that it will.
const PATIENCE: Duration = Duration::from_secs(300);
/// The most read of either output.
const MAX_OUTPUT: u64 = 64 << 10;

/// Runs the operator's program.
#[derive(Clone, Debug)]
pub struct CommandProvisioner {
    words: Vec<String>,
}

#[derive(Deserialize)]
struct Opened {
    url: String,
    #[serde(default)]
    addresses: Vec<IpAddr>,
    handle: String,
}

impl CommandProvisioner {
    /// A program with its first arguments.
    #[must_use]
    pub const fn new(words: Vec<String>) -> Self {
        Self { words }
    }

    async fn run(&self, more: &[&str]) -> Result<Vec<u8>, ProvisionError> {
        let Some((program, first)) = self.words.split_first() else { return Err(ProvisionError::NoRoom) };
        let failed = |source| ProvisionError::Run { program: program.clone(), source };
        let mut command = Command::new(program);
        command.args(first).args(more).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let reading = async {
            let (out, err) = tokio::join!(read_all(out), read_all(err));
            (out, err, child.wait().await)
        };
        let (out, err, status) = tokio::time::timeout(PATIENCE, reading)
            .await
            .map_err(|_| ProvisionError::Slow(program.clone()))?;
        if status.map_err(failed)?.success() {
            return Ok(out);
        }
        Err(ProvisionError::Failed { program: program.clone(), told: last_line(&err) })
    }
}

/// What comes, up to a bound; the rest is read and forgotten, so that the program can end.
async fn read_all(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = (&mut pipe).take(MAX_OUTPUT).read_to_end(&mut bytes).await;
        let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
    bytes
}

impl Provisioner for CommandProvisioner {
    fn open(&self, name: String) -> Asked<'_, NodeSpec> {
        Box::pin(async move {
            let out = self.run(&["open", &name]).await?;
            let answer = || ProvisionError::Answer {
                program: self.words.first().cloned().unwrap_or_default(),
                wanted: r#"{"url":"https://ADDRESS:PORT","addresses":["ADDRESS"],"handle":"ID"}"#,
            };
            let opened: Opened = serde_json::from_slice(&out).map_err(|_| answer())?;
            let address = NodeAddress::parse(&opened.url).ok_or_else(answer)?;
            let addresses = if opened.addresses.is_empty() {
                crate::director::probe::resolve(&address).await
            } else {
                opened.addresses
            };
            if opened.handle.is_empty() || addresses.is_empty() {
                return Err(answer());
            }
            Ok(NodeSpec { name, url: opened.url, addresses, handle: opened.handle })
        })
    }

    fn close(&self, node: NodeSpec) -> Asked<'_, ()> {
        Box::pin(async move { self.run(&["close", &node.name, &node.handle]).await.map(drop) })
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn shell(script: &str) -> CommandProvisioner {
        CommandProvisioner::new(vec!["sh".into(), "-c".into(), script.into(), "provision".into()])
    }

    #[tokio::test]
    async fn a_program_opens_and_closes() {
        let good = shell(
            r#"[ "$1 $2" = "open otter" ] && echo '{"url":"https://192.0.2.9:8443","handle":"i-7"}' && exit
               [ "$1 $2 $3" = "close otter i-7" ]"#,
        );
        let node = good.open("otter".into()).await.unwrap();
        assert_eq!((node.handle.as_str(), node.addresses.len()), ("i-7", 1));
        good.close(node.clone()).await.unwrap();
        assert!(good.close(NodeSpec { handle: "i-8".into(), ..node }).await.is_err());
    }

    #[tokio::test]
    async fn what_goes_wrong_is_told_in_its_words() {
        let told = async |script: &str| shell(script).open("otter".into()).await.unwrap_err().to_string();
        assert_eq!(
            told("echo working >&2; echo quota exceeded >&2; exit 3").await,
            "sh failed: quota exceeded"
        );
        for nonsense in
            ["true", "echo no", r#"echo '{"url":"ftp://x","handle":"i"}'"#, r#"echo '{"handle":"i"}'"#]
        {
            assert!(told(nonsense).await.starts_with("sh was to print {\"url\""), "{nonsense}");
        }
        // More output than anybody reads does not hang it.
        assert!(told("yes | head -c 3000000; exit 1").await.starts_with("sh failed"));
        let missing = CommandProvisioner::new(vec!["/nonexistent/program".into()]);
        assert!(missing.open("otter".into()).await.unwrap_err().to_string().contains("cannot be run"));
    }
}
