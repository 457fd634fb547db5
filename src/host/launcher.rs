//! What all launchers of the host share: pointers become slices, a panic becomes a status, and the element type is chosen.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;

use crate::device::bindings::engine_status;

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Nothing: a launch on the host ends before the next one begins.
pub(super) unsafe extern "C" fn allow_programmatic_launch(_allowed: bool) {}

/// What went wrong in this thread's last launch that failed.
pub(super) unsafe extern "C" fn last_error() -> *const c_char {
    LAST_ERROR.with_borrow(|message| message.as_ptr())
}

/// Runs a launcher's work; a panic in it (a mistake of this crate) must not pass through C, and becomes its status.
pub(super) fn run(work: impl FnOnce()) -> engine_status {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(()) => engine_status::ENGINE_OK,
        Err(panic) => {
            LAST_ERROR.set(CString::new(message(&*panic)).unwrap_or_default());
            engine_status::ENGINE_BAD_ARGUMENT
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    format!("internal: {}", text.unwrap_or("a panic")).replace('\0', "")
}

/// `with_dtype!(dtype, T => expression)`: runs the expression with `T` bound to the element type.
macro_rules! with_dtype {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::device::bindings::engine_dtype::ENGINE_F32 => {
                type $t = f32;
                $body
            }
            $crate::device::bindings::engine_dtype::ENGINE_BF16 => {
                type $t = half::bf16;
                $body
            }
            $crate::device::bindings::engine_dtype::ENGINE_F64 => {
                type $t = f64;
                $body
            }
        }
    };
}
pub(super) use with_dtype;

/// Room for a matrix of any type, of a launcher that does its work in two steps.
pub(super) struct Scratch(Vec<f64>);

impl Scratch {
    pub fn new(elements: usize) -> Self {
        Self(vec![0.0; elements])
    }

    pub fn address(&mut self) -> *mut c_void {
        self.0.as_mut_ptr().cast()
    }
}

/// `len` elements that a launcher reads.
///
/// # Safety
/// They are there, initialised and unchanged for as long as the slice is used; any pointer will do when there are none.
pub(super) unsafe fn elements<'a, T>(from: *const c_void, len: usize) -> &'a [T] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(from.cast(), len) }
}

/// `len` elements that a launcher writes.
///
/// # Safety
/// As [`elements`], and nobody else uses them meanwhile.
pub(super) unsafe fn elements_mut<'a, T>(to: *mut c_void, len: usize) -> &'a mut [T] {
    if len == 0 {
        return &mut [];
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts_mut(to.cast(), len) }
}
