//! What no driver of NVIDIA's has: work from outside, and what tests want to know.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cudarc::driver::sys::{CUresult, CUstream};

use crate::abi::{Take, Work};
use crate::context::{CURRENT, context, current, total};
use crate::fault::{self, answer};
use crate::node::{Action, Foreign, Node};

/// Queues work: a kernel's launch or a product.
///
/// # Safety
/// What `work` points to is read before this returns; its `data` may go to another thread.
#[unsafe(no_mangle)]
unsafe extern "C" fn stand_in_enqueue(stream: CUstream, work: *const Work) -> CUresult {
    // SAFETY: the caller's promise.
    let (accesses, what, foreign, nanoseconds) = unsafe {
        let work = &*work;
        let accesses = match work.accesses_len {
            0 => &[],
            len => std::slice::from_raw_parts(work.accesses, len),
        };
        let what = CStr::from_ptr(work.what).to_string_lossy().into_owned();
        (accesses, what, Foreign { run: work.run, drop: work.drop, data: work.data }, work.nanoseconds)
    };
    answer("launch", || {
        let mut context = current()?;
        let illegal = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
        let mut touches = Vec::new();
        for access in accesses {
            match access.bytes {
                0 => touches.extend(context.touch_of_word(access.address)?),
                bytes => touches.push(context.touch(access.address, bytes, access.writes, illegal)?),
            }
        }
        context.has_modules = true;
        context.push(stream as u64, Arc::new(Node { what, touches, action: Action::Foreign(foreign), nanoseconds }))
    })
}

/// The GPU whose context is this thread's; -1: none, or it cannot be used.
#[unsafe(no_mangle)]
extern "C" fn stand_in_current() -> c_int {
    let usable = CURRENT.get().filter(|gpu| {
        let context = context(*gpu);
        context.retained > 0 && context.broken.is_none()
    });
    usable.unwrap_or(-1)
}

/// Hands on what this thread's calls failed with since the last time.
///
/// # Safety
/// `take` takes `to` and a C string that it copies.
#[unsafe(no_mangle)]
unsafe extern "C" fn stand_in_take_faults(take: Take, to: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { hand_on(fault::take_log(), take, to) };
}

/// Hands on what was made on a GPU and not given back.
///
/// # Safety
/// As [`stand_in_take_faults`].
#[unsafe(no_mangle)]
unsafe extern "C" fn stand_in_leftovers(gpu: c_int, take: Take, to: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { hand_on(context(gpu).leftovers(), take, to) };
}

unsafe fn hand_on(lines: Vec<String>, take: Take, to: *mut c_void) {
    for line in lines {
        let line = CString::new(line).unwrap_or_default();
        // SAFETY: the callers' promise.
        unsafe { take(to, line.as_ptr()) };
    }
}

/// Keeps a failure of another library for this thread's test.
///
/// # Safety
/// `line` is a C string.
#[unsafe(no_mangle)]
unsafe extern "C" fn stand_in_note_fault(line: *const c_char) {
    // SAFETY: the caller's promise.
    fault::log(unsafe { CStr::from_ptr(line) }.to_string_lossy().into_owned());
}

/// Of this thread's calls of a function the one after the next `after` fails with `code`.
///
/// # Safety
/// `call` is a C string.
#[unsafe(no_mangle)]
unsafe extern "C" fn stand_in_fail(call: *const c_char, after: u32, code: CUresult) {
    // SAFETY: the caller's promise.
    fault::plant(unsafe { CStr::from_ptr(call) }.to_string_lossy().into_owned(), after, code);
}

/// How much memory a GPU has from now on.
#[unsafe(no_mangle)]
extern "C" fn stand_in_total(gpu: c_int, bytes: usize) {
    total(gpu).store(bytes as u64, Ordering::Relaxed);
}
