//! `rezcache join`: remembers the shared cache of a home or a classroom by its join line, for `rezcache proxy
//! --cache-server auto`.

use std::io::{self, IsTerminal as _, Read as _, Write as _};

use anyhow::{Context as _, bail};
use clap::Args;

use super::{Outcome, consent, print};
use crate::client::address::ServerAddress;
use crate::client::is_there;
use crate::client::joined::{self, JoinedServer};
use crate::config::Settings;
use crate::token::join::{JoinLine, MAX_JOIN_LINE_BYTES};

/// What stands at the end of the help.
const EXAMPLES: &str = "Examples:
  rezcache join                     asks for the line; paste it, and press Enter
  rezcache join < line.txt          reads it from a file
  rezcache join --list              shows what was joined
  rezcache proxy --grid http://login.grid.example/ --cache-server auto

The line is a secret. Given on the command line it stays in your shell's history, and others on this computer
can see it for a moment; asked for, it does not.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The join line, as `rezcache serve --lan` prints it [default: asked for, or read from standard input]
    #[arg(value_name = "rezcache://…")]
    line: Option<String>,
    /// Whether public assets that the grid sends are shared with this server: yes or no [default: asked]
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
    upload: Option<bool>,
    /// Show the servers that were joined
    #[arg(long, conflicts_with_all = ["line", "upload", "forget"])]
    list: bool,
    /// Forget the server whose name, as --list shows it, begins like this
    #[arg(long, value_name = "NAME", conflicts_with_all = ["line", "upload"])]
    forget: Option<String>,
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("say yes or no".into()),
    }
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Outcome> {
    let data_dir = &settings.data_dir;
    if arguments.list {
        print(&list(&joined::load(data_dir)?))?;
        return Ok(Outcome::Done);
    }
    if let Some(name) = &arguments.forget {
        if name.trim().len() < 4 {
            bail!("name at least four digits of the server, as `rezcache join --list` shows them");
        }
        let number = joined::forget(data_dir, name)?;
        print(if number == 0 { "no server is called like that\n" } else { "forgotten\n" })?;
        return Ok(if number == 0 { Outcome::Failed } else { Outcome::Done });
    }
    let text = match arguments.line {
        Some(line) if line != "-" => line,
        _ => tokio::task::spawn_blocking(read_line).await??,
    };
    let line: JoinLine = text.parse()?;
    let server = JoinedServer { line: line.clone(), upload: arguments.upload };
    let upload = match arguments.upload {
        None if server.takes_uploads() => {
            let name = format!("rezcache://{}", line.address);
            tokio::task::spawn_blocking(move || consent::ask_at_terminal(&name)).await?
        }
        said => said,
    };
    let (address, pin) = (line.address, line.pin.clone());
    joined::add(data_dir, line, upload)?;
    let answers = is_there(&ServerAddress::at(address, &pin)).await;
    let mut told = if answers {
        format!("joined the shared cache at {address}: it answers\n")
    } else {
        format!(
            "remembered the shared cache at {address}. It does not answer now: is it running, and is this computer in \
             its network? It will be used as soon as it is found\n"
        )
    };
    if !server.takes_uploads() {
        told.push_str("with this line you read; nothing is uploaded\n");
    } else if upload.is_none() {
        told.push_str(
            "nothing is uploaded to it, since nobody has said yes: --upload yes or --upload no settles it\n",
        );
    }
    told.push_str("  rezcache proxy --cache-server auto …\n");
    print(&told)?;
    Ok(Outcome::Done)
}

fn list(servers: &[JoinedServer]) -> String {
    if servers.is_empty() {
        return "no shared cache was joined\n".to_owned();
    }
    let mut text = String::new();
    for server in servers {
        let uploads = match (server.takes_uploads(), server.upload) {
            (false, _) => "for reading",
            (true, Some(true)) => "uploads to it",
            (true, Some(false)) => "no uploads",
            (true, None) => "no uploads, not asked yet",
        };
        text.push_str(&format!("{}  {}  {uploads}\n", server.line.pin.short(), server.line.address));
    }
    text
}

/// The line from standard input: one line of a person, all of a file.
fn read_line() -> anyhow::Result<String> {
    let mut text = String::new();
    let stdin = io::stdin();
    if stdin.is_terminal() {
        io::stderr().write_all(b"Paste the join line, and press Enter: ")?;
        io::stderr().flush()?;
        stdin.read_line(&mut text).context("cannot read the join line")?;
    } else {
        let most = 2 * u64::try_from(MAX_JOIN_LINE_BYTES)?;
        stdin.lock().take(most).read_to_string(&mut text).context("cannot read the join line")?;
    }
    Ok(text)
}
