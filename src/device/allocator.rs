//! The process's allocator: where memory is short, the program says so and exits, where otherwise it would abort.
//!
//! What is large asks by [`room`](super::room) and gets an error. What is small (a string, a node of a map) cannot be asked for
//! everywhere, and Rust aborts when there is none: with a core dump, and with the exit status of a crash.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::File;
use std::io::Write;
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;

thread_local! {
    /// Whether whoever allocates will look at what it gets.
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

/// The system's allocator. In a binary: `#[global_allocator] static ALLOCATOR: Announcing = Announcing;`.
pub struct Announcing;

/// Runs `allocate`, which looks whether it got memory: here alone a lack of it does not end the process.
pub fn asking<T>(allocate: impl FnOnce() -> T) -> T {
    let before = ASKING.replace(true);
    let result = allocate();
    ASKING.set(before);
    result
}

// SAFETY: the system's allocator, whose answers are passed on.
unsafe impl GlobalAlloc for Announcing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        looked_at(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        looked_at(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        looked_at(unsafe { System.realloc(old, layout, size) }, size)
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(old, layout) };
    }
}

fn looked_at(address: *mut u8, size: usize) -> *mut u8 {
    if address.is_null() && !ASKING.get() {
        out_of_memory(size);
    }
    address
}

/// Allocates nothing.
#[cold]
fn out_of_memory(size: usize) -> ! {
    let mut text = [0u8; 160];
    let mut rest = &mut text[..];
    let _ = writeln!(
        rest,
        "error: out of memory: {size} more bytes are needed\n\nhint: `ulimit -v` shows whether this process is limited"
    );
    let unused = rest.len();
    // SAFETY: stderr, for as long as the process lives; it is not closed here.
    let mut stderr = ManuallyDrop::new(unsafe { File::from_raw_fd(2) });
    let _ = stderr.write_all(&text[..text.len() - unused]);
    signal_hook::low_level::exit(1)
}
