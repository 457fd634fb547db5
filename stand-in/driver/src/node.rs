//! What streams and graphs hold: copies, zeros, and the work of others (kernels, products).

use std::ffi::c_void;

use cudarc::driver::sys::CUresult;

use crate::fault::{Outcome, SILENT, fault};

/// A part of an allocation, or all of it.
pub struct Touch {
    pub address: u64,
    pub bytes: u64,
    pub writes: bool,
    /// The allocation: its address and its number, which is nobody else's.
    pub block: u64,
    pub number: u64,
}

impl Touch {
    /// Whether the order of the two matters.
    pub fn conflicts(&self, other: &Self) -> bool {
        let apart = self.address + self.bytes <= other.address || other.address + other.bytes <= self.address;
        !apart && (self.writes || other.writes)
    }
}

pub enum Action {
    /// From page-locked memory. `seen` is what lay there when the copy was queued; a copy in a graph reads what lies there
    /// when it runs.
    Upload {
        to: u64,
        from: u64,
        bytes: usize,
        seen: Option<Vec<u8>>,
    },
    Download {
        to: u64,
        from: u64,
        bytes: usize,
    },
    Set {
        at: u64,
        value: u8,
        bytes: usize,
    },
    Foreign(Foreign),
}

/// Work that was handed in with what undoes it.
pub struct Foreign {
    pub run: unsafe extern "C" fn(*mut c_void) -> CUresult,
    pub drop: unsafe extern "C" fn(*mut c_void),
    pub data: *mut c_void,
}

// SAFETY: whoever handed it in has promised that a thread at a time may run and drop it.
unsafe impl Send for Foreign {}
// SAFETY: as above; it is run under the lock of its context.
unsafe impl Sync for Foreign {}

impl Drop for Foreign {
    fn drop(&mut self) {
        // SAFETY: called once, with what it belongs to.
        unsafe { (self.drop)(self.data) };
    }
}

pub struct Node {
    pub what: String,
    pub touches: Vec<Touch>,
    pub action: Action,
    /// By the GPU's clock.
    pub nanoseconds: u64,
}

impl Node {
    /// The host's memory that it reads.
    pub fn source(&self) -> Option<(u64, u64)> {
        match &self.action {
            Action::Upload { from, bytes, .. } => Some((*from, from + *bytes as u64)),
            _ => None,
        }
    }

    /// # Safety
    /// The memory of the GPU and the page-locked memory that it touches are there.
    pub unsafe fn run(&self) -> Outcome {
        // SAFETY: the caller's promise. The host's memory of a download is its caller's, who waits for the copy.
        unsafe {
            match &self.action {
                Action::Upload { to, from, bytes, seen } => {
                    let source = std::slice::from_raw_parts(*from as *const u8, *bytes);
                    if seen.as_ref().is_some_and(|seen| seen != source) {
                        return fault(
                            SILENT,
                            format!("{}: its source was changed before the copy was made", self.what),
                        );
                    }
                    std::ptr::copy_nonoverlapping(source.as_ptr(), *to as *mut u8, *bytes);
                }
                Action::Download { to, from, bytes } => {
                    std::ptr::copy_nonoverlapping(*from as *const u8, *to as *mut u8, *bytes);
                }
                Action::Set { at, value, bytes } => std::ptr::write_bytes(*at as *mut u8, *value, *bytes),
                Action::Foreign(work) => {
                    let code = (work.run)(work.data);
                    if code != CUresult::CUDA_SUCCESS {
                        return fault(code, format!("{} failed as it ran", self.what));
                    }
                }
            }
        }
        Ok(())
    }
}
