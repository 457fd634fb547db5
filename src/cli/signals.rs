//! Who asks the process to stop. A run finishes its step and saves, whatever has become of the terminal.

use std::fs;
use std::sync::atomic::{AtomicI32, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use super::out::say;
use crate::error::{Error, Result};

/// The first signal that asked; 0: none has.
static STOPPED_BY: AtomicI32 = AtomicI32::new(0);

/// Whether the process was asked to stop.
pub fn stopped() -> bool {
    STOPPED_BY.load(Ordering::Relaxed) != 0
}

/// The exit code of a process that was asked to stop, as shells have it: 128 and the signal.
pub fn exit_code() -> u8 {
    let signal = STOPPED_BY.load(Ordering::Relaxed);
    u8::try_from(128 + if signal == 0 { SIGINT } else { signal }).unwrap_or(1)
}

/// An error once the process was asked to stop; `what` says what becomes of the work.
///
/// # Errors
/// Then.
pub fn go_on(what: &str) -> Result<()> {
    if stopped() { Err(Error::interrupted(what)) } else { Ok(()) }
}

/// From now on Ctrl-C, SIGTERM and SIGHUP ask to stop. A second Ctrl-C ends the process at once; a second SIGTERM or SIGHUP
/// does not, for a terminal that goes away and a shell that goes with it send several. A SIGHUP that was ignored when the
/// process began (`nohup`) stays ignored.
pub fn listen(hint: &'static str) {
    let signals = [SIGINT, SIGTERM, SIGHUP];
    let heard = signals.iter().filter(|signal| **signal != SIGHUP || !is_ignored(SIGHUP));
    let mut signals = match Signals::new(heard) {
        Ok(signals) => signals,
        Err(error) => return say(&format!("warning: Ctrl-C will end the process without saving: {error}")),
    };
    std::thread::spawn(move || {
        for signal in signals.forever() {
            let before = STOPPED_BY.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed);
            match before {
                Ok(_) => say(&format!("\n{hint}")),
                Err(_) if signal == SIGINT => std::process::exit(exit_code().into()),
                Err(_) => {}
            }
        }
    });
}

/// A file that is larger than the limit of the process becomes an error of the write, which has a message.
pub fn survive_file_size_limit() {
    let ignored = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let _ = signal_hook::flag::register(SIGXFSZ, ignored);
}

/// Whether the process was started with a signal ignored. Linux tells; elsewhere: no.
fn is_ignored(signal: i32) -> bool {
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return false };
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
