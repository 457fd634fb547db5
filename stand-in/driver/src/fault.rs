//! What a call that fails says: to its caller the driver's code, to the test a sentence.

use std::cell::{Cell, RefCell};

use cudarc::driver::sys::CUresult;

pub struct Fault {
    pub code: CUresult,
    pub why: String,
}

pub type Outcome<T = ()> = Result<T, Fault>;

/// What the real driver would let pass, and what then goes wrong in silence. No call of the engine gets this code
/// from a driver.
pub const SILENT: CUresult = CUresult::CUDA_ERROR_ASSERT;

pub fn fault<T>(code: CUresult, why: impl Into<String>) -> Outcome<T> {
    Err(Fault { code, why: why.into() })
}

thread_local! {
    static LOG: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// A call that is to fail, how many of them are to succeed before, and its code.
    static PLANTED: Cell<Option<(&'static str, u32, CUresult)>> = const { Cell::new(None) };
}

/// Runs a call of this name; what it failed with is kept for this thread's test.
pub fn answer(call: &'static str, work: impl FnOnce() -> Outcome) -> CUresult {
    let outcome = match PLANTED.get() {
        Some((name, 0, code)) if name == call => {
            PLANTED.set(None);
            fault(code, "the test wants it so")
        }
        planted => {
            PLANTED.set(planted.map(|(name, left, code)| (name, left - u32::from(name == call), code)));
            work()
        }
    };
    match outcome {
        Ok(()) => CUresult::CUDA_SUCCESS,
        Err(Fault { code, why }) => {
            log(format!("{call}: {code:?}: {why}"));
            code
        }
    }
}

pub fn log(line: String) {
    LOG.with_borrow_mut(|log| log.push(line));
}

pub fn take_log() -> Vec<String> {
    LOG.take()
}

/// Of the calls of this name the one after the next `after` fails.
pub fn plant(call: String, after: u32, code: CUresult) {
    PLANTED.set(Some((call.leak(), after, code)));
}
