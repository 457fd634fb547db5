//! Copies and zeros on a stream.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::{CUdeviceptr, CUresult, CUstream};

use crate::context::current;
use crate::fault::{SILENT, answer, fault};
use crate::node::{Action, Node};

/// Of a copy or zeros: a microsecond, and a terabyte a second.
fn nanoseconds(bytes: usize) -> u64 {
    1000 + bytes as u64 / 1000
}

const BAD: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: CUdeviceptr,
    from: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    answer("cuMemcpyHtoDAsync_v2", || {
        let mut context = current()?;
        let touch = context.touch(to, bytes as u64, true, BAD)?;
        let (start, end) = (from as u64, from as u64 + bytes as u64);
        let held = context.pinned.range(..=start).next_back();
        if held.is_none_or(|(at, pinned)| end > at + pinned.bytes.len() as u64) {
            return fault(SILENT, format!("{bytes} bytes at {start:#x} are not page-locked: that copy waits"));
        }
        let captured = context.stream(stream as u64)?.capture.is_some();
        // SAFETY: it lies in memory that this library holds.
        let seen = (!captured).then(|| unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) }.to_vec());
        let what = format!("a copy of {bytes} bytes to the GPU");
        let action = Action::Upload { to, from: start, bytes, seen };
        context
            .push(stream as u64, Arc::new(Node { what, touches: vec![touch], action, nanoseconds: nanoseconds(bytes) }))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream) -> CUresult {
    answer("cuMemcpyDtoHAsync_v2", || {
        let mut context = current()?;
        let touch = context.touch(from, bytes as u64, false, BAD)?;
        let what = format!("a copy of {bytes} bytes from the GPU");
        let action = Action::Download { to: to as u64, from, bytes };
        context
            .push(stream as u64, Arc::new(Node { what, touches: vec![touch], action, nanoseconds: nanoseconds(bytes) }))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8Async(at: CUdeviceptr, value: u8, bytes: usize, stream: CUstream) -> CUresult {
    answer("cuMemsetD8Async", || {
        let mut context = current()?;
        let touch = context.touch(at, bytes as u64, true, BAD)?;
        let what = format!("filling {bytes} bytes");
        let action = Action::Set { at, value, bytes };
        context
            .push(stream as u64, Arc::new(Node { what, touches: vec![touch], action, nanoseconds: nanoseconds(bytes) }))
    })
}
