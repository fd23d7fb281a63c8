//! The command line: one subcommand a file. Exit status: 0 done, 1 failed, 2 wrong usage.

mod check_config;
mod consent;
mod director;
mod doctor;
mod examples;
mod instructions;
mod join;
mod live;
mod owner;
mod progress;
mod proxy;
mod replay;
mod run;
mod serve;
mod serve_lan;
mod status;
mod store;
mod times;
mod token;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand};
use tracing::level_filters::LevelFilter;

use crate::config::{CommonFlags, Flags, Problems, Settings};
use crate::telemetry;

/// A viewer-side caching proxy for Second Life and OpenSimulator: what was fetched once comes from this
/// machine the next time.
#[derive(Parser, Debug)]
#[command(name = "rezcache", version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    common: CommonFlags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the proxy between viewers and their grids
    Proxy(proxy::Arguments),
    /// Start a viewer through the proxy; the first time asks which one and which grid
    Run(run::Arguments),
    /// Replay captured sessions through the real proxy and compare every byte
    Replay(replay::Arguments),
    /// Run a node of the shared cache, for a home, a classroom or a grid
    Serve(serve::Arguments),
    /// Direct an array of nodes: DNS, health, scaling, status page
    Director(Box<director::Arguments>),
    /// Check, repair and look into the store of a shared cache
    Store(store::Arguments),
    /// Make and revoke tokens of a shared cache
    Token(token::Arguments),
    /// Remember the shared cache of a home or a classroom by its join line
    Join(join::Arguments),
    /// Show what a running proxy has done
    Status(status::Arguments),
    /// Find out what does not work, and what to do about it
    Doctor(doctor::Arguments),
    /// Check the configuration and show what it comes to
    CheckConfig(check_config::Arguments),
}

/// How a subcommand ended that did not fail on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// What went wrong has been printed.
    Failed,
    /// The same, and the command line was at fault.
    Misused,
    /// Ended as another program did, with its status.
    Exited(u8),
}

/// The command line, for what is made from it: man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program with these arguments, the program's name first.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    // Libraries that make HTTP clients take the process's TLS provider, and end the process without one.
    // That there is one already is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, with status 0. A closed pipe is nobody's mistake.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match run(cli) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Ok(Outcome::Misused) => ExitCode::from(2),
        Ok(Outcome::Exited(status)) => ExitCode::from(status),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "rezcache: {}", told_once(&error));
            let usage = error.downcast_ref::<Problems>().is_some_and(Problems::are_usage);
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<Outcome> {
    let Cli { common, command } = cli;
    let mut flags = Flags { common, ..Flags::default() };
    let usual = match &command {
        Command::Proxy(_) | Command::Serve(_) => LevelFilter::INFO,
        Command::Director(arguments) if arguments.command.is_none() => LevelFilter::INFO,
        _ => LevelFilter::WARN,
    };
    match &command {
        Command::Proxy(arguments) => flags.proxy = arguments.flags.clone(),
        Command::Run(arguments) => {
            (flags.proxy, flags.run) = (arguments.proxy.clone(), arguments.flags.clone());
            run::spell_out(&mut flags);
        }
        Command::Replay(arguments) => {
            (flags.replay, flags.replay_service) = (arguments.flags.clone(), arguments.service.clone());
        }
        Command::Serve(arguments) => flags.serve = arguments.flags.clone(),
        Command::Director(arguments) => {
            (flags.director, flags.board) = (arguments.flags.clone(), arguments.board.clone());
        }
        Command::Store(arguments) => flags.serve = arguments.flags(),
        Command::Token(token::Arguments { command: token::Command::Revoke(arguments) }) => {
            flags.serve.store.clone_from(&arguments.store);
            flags.serve.catalog.clone_from(&arguments.catalog);
        }
        Command::Token(_) | Command::Join(_) => {}
        Command::Status(arguments) => flags.proxy.control = arguments.control.clone(),
        Command::Doctor(arguments) => flags.proxy = arguments.flags.clone(),
        Command::CheckConfig(arguments) => {
            (flags.proxy, flags.replay) = (arguments.proxy.clone(), arguments.replay.clone());
            flags.board = arguments.board.clone();
        }
    }
    let settings = Settings::load(&flags);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let settings = match (settings, &command) {
            // A damaged file is one of the things that it finds.
            (Err(problems), Command::Doctor(arguments)) if !problems.are_usage() => {
                return doctor::run(arguments, Err(problems)).await;
            }
            (Err(problems), Command::Run(arguments)) => {
                let Some(viewer) = run::viewer_despite(arguments, &flags, &problems) else {
                    return Err(problems.into());
                };
                return run::without_us(&viewer, &problems.into()).await;
            }
            // Its unit starts it again after everything but wrong usage.
            (Err(problems), Command::Director(_)) => return Err(problems.into_usage().into()),
            (settings, _) => settings?,
        };
        telemetry::start(settings.log_format, settings.verbose, usual);
        match command {
            Command::Doctor(arguments) => doctor::run(&arguments, Ok(settings)).await,
            Command::Proxy(_) => proxy::run(settings).await,
            Command::Run(arguments) => run::run(arguments, settings, flags).await,
            Command::Replay(arguments) => replay::run(arguments, settings).await,
            Command::Serve(_) => serve::run(settings).await,
            Command::Director(arguments) => director::run(*arguments, settings).await,
            Command::Store(arguments) => store::run(arguments, settings).await,
            Command::Token(arguments) => token::run(arguments, settings).await,
            Command::Join(arguments) => join::run(arguments, settings).await,
            Command::Status(arguments) => status::run(&arguments, &settings).await,
            Command::CheckConfig(_) => check_config::run(&settings),
        }
    });
    // A disk that hangs must not keep the program from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Writes to standard output.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// An error with its causes, each said once: many texts name their cause already.
fn told_once(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if told.is_empty() {
            told = cause;
        } else if !told.contains(&cause) {
            told.push_str(": ");
            told.push_str(&cause);
        }
    }
    told
}
