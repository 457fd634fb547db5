//! The `engine` binary: parses the command line, runs the command, prints what went wrong.

use std::process::ExitCode;

fn main() -> ExitCode {
    engine::cli::main()
}
