//! Makes what packages need of the command line: man pages, and completions for bash, zsh, fish and
//! PowerShell. `packaging/build` calls it with a folder.
#![allow(clippy::print_stderr)]

use std::path::Path;
use std::process::ExitCode;

use clap_complete::Shell;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: packaging_files FOLDER");
        return ExitCode::from(2);
    };
    match make(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("packaging_files: {error}");
            ExitCode::FAILURE
        }
    }
}

fn make(folder: &Path) -> std::io::Result<()> {
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    std::fs::create_dir_all(&man)?;
    std::fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(rezcache::cli::command(), &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell] {
        clap_complete::generate_to(shell, &mut rezcache::cli::command(), "rezcache", &completions)?;
    }
    Ok(())
}
