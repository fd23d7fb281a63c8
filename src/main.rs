//! The program `rezcache`. Everything is in the library's `cli`.

fn main() -> std::process::ExitCode {
    rezcache::cli::main(std::env::args_os())
}
