//! Nodes by programs of the operator's: kubectl, nomad, hcloud, a script. They are run as
//!
//! - `OPEN… NAME`, which prints where the node will be: `{"url":"https://ADDRESS:PORT","addresses":["ADDRESS"],
//!   "handle":"ID"}`, or the same as one line, `URL HANDLE [ADDRESS…]`; the last line counts;
//! - `CLOSE… NAME HANDLE`, which is done when the node is gone, or was gone before.
//!
//! Name, handle and URL are in `NODE_NAME`, `NODE_HANDLE` and `NODE_URL` too. The status says whether it worked; the
//! last line of the error output is told to the operators. A program that takes too long is killed with all that it
//! has started. `packaging/examples/provision-hcloud` is one.

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
/// What a program has left behind may hold its pipes open: that is not waited for.
const AFTERMATH: Duration = Duration::from_millis(500);
/// The most read of either output.
const MAX_OUTPUT: u64 = 64 << 10;

/// What is run.
#[derive(Clone, Debug)]
pub struct CommandConfig {
    /// The program that opens, with its first arguments.
    pub open: Vec<String>,
    /// The program that closes, with its first arguments.
    pub close: Vec<String>,
    /// How long either may take.
    pub patience: Duration,
}

/// Runs the operator's programs.
#[derive(Clone, Debug)]
pub struct CommandProvisioner {
    config: CommandConfig,
}

#[derive(Deserialize)]
struct Opened {
    url: String,
    #[serde(default)]
    addresses: Vec<IpAddr>,
    handle: String,
}

impl Opened {
    /// Reads what was printed: the last line that says anything, since programs like to talk before.
    fn read(out: &[u8]) -> Option<Self> {
        if let Ok(opened) = serde_json::from_slice(out) {
            return Some(opened);
        }
        let text = std::str::from_utf8(out).ok()?;
        let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
        if line.starts_with('{') {
            return serde_json::from_str(line).ok();
        }
        let mut words = line.split_whitespace();
        let (url, handle) = (words.next()?.to_owned(), words.next()?.to_owned());
        let addresses = words.map(str::parse).collect::<Result<_, _>>().ok()?;
        Some(Self { url, addresses, handle })
    }
}

impl CommandProvisioner {
    /// One program that is told `open` or `close` after its first arguments.
    #[must_use]
    pub fn new(words: Vec<String>) -> Self {
        let (mut open, mut close) = (words.clone(), words);
        open.push("open".into());
        close.push("close".into());
        Self::with(CommandConfig { open, close, patience: PATIENCE })
    }

    /// A program for each.
    #[must_use]
    pub const fn with(config: CommandConfig) -> Self {
        Self { config }
    }

    async fn run(
        &self,
        words: &[String],
        more: &[&str],
        about: &[(&str, &str)],
    ) -> Result<Vec<u8>, ProvisionError> {
        let Some((program, first)) = words.split_first() else { return Err(ProvisionError::NoRoom) };
        let failed = |source| ProvisionError::Run { program: program.clone(), source };
        let mut command = Command::new(program);
        command.args(first).args(more).envs(about.iter().copied()).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        let family = Family::of(&child);
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (mut out_bytes, mut err_bytes) = (Vec::new(), Vec::new());
        let status = {
            let reading =
                async { tokio::join!(read_all(out, &mut out_bytes), read_all(err, &mut err_bytes)) };
            tokio::pin!(reading);
            let running = async {
                tokio::select! {
                    status = child.wait() => {
                        let _ = tokio::time::timeout(AFTERMATH, &mut reading).await;
                        status
                    }
                    _ = &mut reading => child.wait().await,
                }
            };
            tokio::time::timeout(self.config.patience, running).await
        };
        let Ok(status) = status else {
            family.kill();
            return Err(ProvisionError::Slow(program.clone()));
        };
        if status.map_err(failed)?.success() {
            return Ok(out_bytes);
        }
        Err(ProvisionError::Failed { program: program.clone(), told: last_line(&err_bytes) })
    }
}

/// A program and what it has started.
struct Family {
    #[cfg(unix)]
    group: Option<rustix::process::Pid>,
}

impl Family {
    #[cfg(unix)]
    fn of(child: &tokio::process::Child) -> Self {
        let number = child.id().and_then(|id| i32::try_from(id).ok());
        Self { group: number.and_then(rustix::process::Pid::from_raw) }
    }

    #[cfg(not(unix))]
    const fn of(_: &tokio::process::Child) -> Self {
        Self {}
    }

    /// Before the program itself is waited for: until then nobody else can have its number.
    fn kill(&self) {
        #[cfg(unix)]
        if let Some(group) = self.group {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

/// What comes, up to a bound; the rest is read and forgotten, so that the program can end.
async fn read_all(pipe: Option<impl AsyncRead + Unpin>, bytes: &mut Vec<u8>) {
    if let Some(mut pipe) = pipe {
        let _ = (&mut pipe).take(MAX_OUTPUT).read_to_end(bytes).await;
        let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
}

impl Provisioner for CommandProvisioner {
    fn open(&self, name: String, _: Vec<String>) -> Asked<'_, NodeSpec> {
        Box::pin(async move {
            let out = self.run(&self.config.open, &[&name], &[("NODE_NAME", &name)]).await?;
            let answer = || ProvisionError::Answer {
                program: self.config.open.first().cloned().unwrap_or_default(),
                wanted: r#"{"url":"https://ADDRESS:PORT","addresses":["ADDRESS"],"handle":"ID"}"#,
            };
            let opened = Opened::read(&out).ok_or_else(answer)?;
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
        Box::pin(async move {
            let about =
                [("NODE_NAME", &*node.name), ("NODE_HANDLE", &*node.handle), ("NODE_URL", &*node.url)];
            self.run(&self.config.close, &[&node.name, &node.handle], &about).await.map(drop)
        })
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
        let node = good.open("otter".into(), Vec::new()).await.unwrap();
        assert_eq!((node.handle.as_str(), node.addresses.len()), ("i-7", 1));
        good.close(node.clone()).await.unwrap();
        assert!(good.close(NodeSpec { handle: "i-8".into(), ..node }).await.is_err());
    }

    #[tokio::test]
    async fn what_goes_wrong_is_told_in_its_words() {
        let told = async |script: &str| {
            shell(script).open("otter".into(), Vec::new()).await.unwrap_err().to_string()
        };
        assert_eq!(
            told("echo working >&2; echo quota exceeded >&2; exit 3").await,
            "sh failed: quota exceeded"
        );
        for nonsense in [
            "true",
            "echo no",
            "echo https://192.0.2.9:8443 i-7 nowhere",
            r#"echo '{"url":"ftp://x","handle":"i"}'"#,
            r#"echo '{"handle":"i"}'"#,
        ] {
            assert!(told(nonsense).await.starts_with("sh was to print {\"url\""), "{nonsense}");
        }
        // More output than anybody reads does not hang it.
        assert!(told("yes | head -c 3000000; exit 1").await.starts_with("sh failed"));
        let missing = CommandProvisioner::new(vec!["/nonexistent/program".into()]);
        assert!(
            missing.open("otter".into(), Vec::new()).await.unwrap_err().to_string().contains("cannot be run")
        );
    }
}
