//! The host's memory for tensors. Large blocks are mapped by themselves, in huge pages where the system has them: of 5 GB in pages
//! of 4 KB the kernel would take a second for the faults alone.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ffi::c_void;
use std::ptr;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::device::allocator::asking;
use crate::err;
use crate::error::Result;

/// Blocks of at least so many bytes are mapped: two huge pages of x86-64.
const MAPPED_BYTES: usize = 4 << 20;

/// Aligned for every vector unit.
fn layout(bytes: usize) -> Result<Layout> {
    Layout::from_size_align(bytes.max(1), 64).map_err(|_| err!("{bytes} bytes are more than there can be"))
}

/// Zeros, because tensors hand them out as numbers; aligned to 64 bytes.
///
/// # Errors
/// There is no memory.
pub fn allocate(bytes: usize) -> Result<*mut c_void> {
    let layout = layout(bytes)?;
    if bytes >= MAPPED_BYTES {
        return map(bytes);
    }
    // SAFETY: the layout is not empty.
    let address = asking(|| unsafe { alloc_zeroed(layout) });
    if address.is_null() { Err(none(bytes)) } else { Ok(address.cast()) }
}

fn map(bytes: usize) -> Result<*mut c_void> {
    // SAFETY: a new mapping, at a place that the system chooses.
    let mapped =
        unsafe { mmap_anonymous(ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) };
    let address = mapped.map_err(|_| none(bytes))?;
    #[cfg(target_os = "linux")]
    // A wish: without huge pages it is only slower.
    // SAFETY: the mapping above, which nobody uses yet.
    let _ = unsafe { rustix::mm::madvise(address, bytes, rustix::mm::Advice::LinuxHugepage) };
    Ok(address)
}

fn none(bytes: usize) -> crate::error::Error {
    err!("there is no memory for {bytes} bytes")
}

/// Gives a block back.
///
/// # Safety
/// It was allocated here with this size, and nobody uses it.
pub unsafe fn free(address: *mut c_void, bytes: usize) {
    if bytes >= MAPPED_BYTES {
        // SAFETY: the caller's promise: all of a mapping. Its arguments are right, so that it does not fail.
        let _ = unsafe { munmap(address, bytes) };
    } else if let Ok(layout) = layout(bytes) {
        // SAFETY: the caller's promise.
        unsafe { dealloc(address.cast(), layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_every_size_are_zeros_aligned_and_given_back() {
        for bytes in [0, 1, 4095, MAPPED_BYTES - 1, MAPPED_BYTES, MAPPED_BYTES + 1] {
            let address = allocate(bytes).unwrap();
            assert!(address.addr().is_multiple_of(64), "{bytes}");
            // SAFETY: the block has as many bytes, and is freed with its size.
            unsafe {
                let block = std::slice::from_raw_parts_mut(address.cast::<u8>(), bytes);
                assert!(block.iter().all(|byte| *byte == 0), "{bytes}");
                block.fill(1);
                free(address, bytes);
            }
        }
        for too_many in [1 << 60, usize::MAX] {
            assert!(allocate(too_many).is_err());
        }
    }
}
