//! The `engine` binary: parses the command line, runs the command, prints what went wrong.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: engine::device::allocator::Announcing = engine::device::allocator::Announcing;

fn main() -> ExitCode {
    engine::cli::main()
}
