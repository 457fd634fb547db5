//! The driver's stand-in, as this library sees it.

use std::ffi::{CString, c_char, c_int};
use std::sync::LazyLock;

use cudarc::cublaslt::sys::cublasStatus_t as Status;
use cudarc::driver::sys::{CUresult, CUstream};
use libloading::Library;

use crate::abi::Work;

pub struct Driver {
    enqueue: unsafe extern "C" fn(CUstream, *const Work) -> CUresult,
    current: unsafe extern "C" fn() -> c_int,
    note: unsafe extern "C" fn(*const c_char),
    _library: Library,
}

static DRIVER: LazyLock<Driver> = LazyLock::new(|| {
    // SAFETY: the test has opened the stand-in, which has this name; its functions have these types.
    unsafe {
        let library = Library::new("libcuda.so").expect("the driver's stand-in was opened before");
        let enqueue = *library.get(b"stand_in_enqueue").expect("a stand-in");
        let current = *library.get(b"stand_in_current").expect("a stand-in");
        let note = *library.get(b"stand_in_note_fault").expect("a stand-in");
        Driver { enqueue, current, note, _library: library }
    }
});

/// What a call fails with: a status, and a sentence for the test.
pub struct Fault {
    pub status: Status,
    pub why: String,
}

pub type Outcome<T = ()> = Result<T, Fault>;

pub fn fault<T>(status: Status, why: impl Into<String>) -> Outcome<T> {
    Err(Fault { status, why: why.into() })
}

pub fn answer(call: &str, work: impl FnOnce() -> Outcome) -> Status {
    match work() {
        Ok(()) => Status::CUBLAS_STATUS_SUCCESS,
        Err(Fault { status, why }) => {
            let line = CString::new(format!("{call}: {status:?}: {why}")).unwrap_or_default();
            // SAFETY: a C string, which is copied.
            unsafe { (DRIVER.note)(line.as_ptr()) };
            status
        }
    }
}

/// The GPU whose context is this thread's.
pub fn current() -> Outcome<i32> {
    // SAFETY: no arguments.
    match unsafe { (DRIVER.current)() } {
        -1 => fault(Status::CUBLAS_STATUS_NOT_INITIALIZED, "no context that can be used is current on this thread"),
        gpu => Ok(gpu),
    }
}

/// Queues work on a stream.
pub fn enqueue(stream: CUstream, work: &Work) -> Outcome {
    // SAFETY: `work` is whole; its data may go to another thread.
    match unsafe { (DRIVER.enqueue)(stream, work) } {
        CUresult::CUDA_SUCCESS => Ok(()),
        code => fault(Status::CUBLAS_STATUS_EXECUTION_FAILED, format!("the driver refused it: {code:?}")),
    }
}
