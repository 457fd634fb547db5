//! Code of other crates that is given what strangers wrote: its panics become errors.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use crate::err;
use crate::error::Result;

thread_local! {
    /// Whether a panic of this thread is nobody's concern but the caller's.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`, which must leave nothing half done that is used afterwards. `what` failed when it panics.
///
/// # Errors
/// It panicked; nothing is printed.
pub fn caught<T>(what: impl FnOnce() -> String, work: impl FnOnce() -> T) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info)
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(before);
    result.map_err(|panic| err!("{}", message(&*panic)).context(what()))
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_with_its_message() {
        let error = caught(|| "the crate failed".into(), || panic!("at {}", 7)).unwrap_err();
        assert_eq!(error.report(), "error: the crate failed\ncaused by: at 7");
        assert_eq!(caught(String::new, || 7).unwrap(), 7);
        assert!(!QUIET.get());
    }
}
