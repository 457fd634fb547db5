//! The commands: flags become a call of [`crate::session`], and what it gives back is printed. Data goes to stdout, talk to
//! stderr; the exit code follows from the [kind](crate::error::Kind) of the error: 0 for done, 1 for a failure, 2 for a
//! usage error, 128 and the signal for a job that was asked to stop (130 for Ctrl-C).

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use crate::error::{Context, Kind, Result};

pub mod args;
pub mod batch_args;
mod chat;
mod check;
pub mod choices;
pub mod config_file;
pub mod data_args;
mod eval;
mod export;
pub mod export_args;
mod generate;
pub mod hub_args;
mod info;
mod init;
mod lengths;
pub mod lora_args;
mod manual;
mod merge;
mod numbers;
pub mod options;
mod out;
mod parity;
pub mod parity_args;
mod preview;
pub mod progress;
mod push;
mod score;
pub mod sft_config;
mod signals;
mod slow;
pub mod spelling;
mod train;

use args::{Cli, Command};

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            out::say(&error.report());
            let interrupted = error.kind() == Kind::Interrupted;
            ExitCode::from(if interrupted { signals::exit_code() } else { error.exit_code() })
        }
    }
}

fn run() -> Result<()> {
    signals::survive_file_size_limit();
    #[cfg(feature = "hub")]
    crate::hub::show_downloads(progress::of_download);
    let arguments = config_file::expand(spelling::hyphens(std::env::args_os().collect()))?;
    // A flag given twice: the last one wins. That is how flags win over the config file.
    let command = Cli::command().mut_subcommands(|c| c.args_override_self(true));
    let matches = match command.try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => return Err(spelling::explained(&error).unwrap_or_else(|| error.exit())),
    };
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    start_threads()?;
    match cli.command {
        Command::Train(args) => train::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Generate(args) if args.chat => chat::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Preview(args) => preview::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Parity(args) => parity::run(&args),
        Command::Import(args) => {
            let existing = options::existing(args.written.overwrite_output_dir, false);
            let dtype = args.written.save_dtype.into();
            let saved =
                crate::io::import::import_gguf(&args.gguf, &args.tokenizer, &args.written.output, existing, dtype)?;
            saved.warning.iter().for_each(|warning| out::say(&warning.warning()));
            out::print(&format!("{}\n", saved.place.display()))
        }
        Command::Merge(args) => merge::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Report { folder } => {
            crate::session::write_page(&folder)?;
            out::print(&format!("{}\n", folder.join(crate::io::run_files::PAGE).display()))
        }
        Command::Push(args) => push::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { folder } => manual::pages(&folder),
        Command::Info(args) => info::run(&args),
    }
}

/// Starts the threads that share the work: the first one to need them would panic if there are none. This one is among them: from
/// outside every op would be handed over to one of them and waited for, twice some 50 us for a thread to wake up.
fn start_threads() -> Result<()> {
    const WHY: &str = "no threads can be started: is there too little memory?";
    /// A thread's stack, and what the standard library maps beside it: if that fails in a new thread, it panics there.
    const THREAD_BYTES: usize = (2 << 20) + (512 << 10);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut room: Vec<u8> = Vec::new();
    room.try_reserve_exact(threads * THREAD_BYTES).context(|| WHY)?;
    drop(room);
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global().context(|| WHY)
}
