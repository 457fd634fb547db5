//! The host's memory for tensors. Large blocks are mapped by themselves, in huge pages where the system has them: of 5 GB in pages
//! of 4 KB the kernel would take a second for the faults alone.
//!
//! Blocks that are used together are often of one size, and the kernel would put them at one distance: weights, gradients and moments of
//! 270M numbers 2^30 bytes apart. First-level caches of AMD tell lines apart by a hash of address bits 12 to 27 (Lipp et al.,
//! "Take A Way: Exploring the Security Implications of AMD's Cache Way Predictors", 2020): the same element of two such arrays throws one
//! another out, and an update of them all took three times as long. So blocks begin at [`PLACES`] different huge pages in turn.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::device::allocator::asking;
use crate::device::room;
use crate::err;
use crate::error::Result;

/// Blocks of at least so many bytes are mapped: two huge pages of x86-64.
const MAPPED_BYTES: usize = 4 << 20;

/// A huge page of x86-64: bits 0 to 20 of an address.
const HUGE_PAGE: usize = 2 << 20;

/// What bits 21 to 24 of the addresses of mapped blocks run through.
const PLACES: usize = 16;

/// Blocks mapped so far.
static MAPPED: AtomicUsize = AtomicUsize::new(0);

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
        return map(bytes, MAPPED.fetch_add(1, Ordering::Relaxed) % PLACES);
    }
    // SAFETY: the layout is not empty.
    let address = asking(|| unsafe { alloc_zeroed(layout) });
    if address.is_null() { Err(none(bytes)) } else { Ok(address.cast()) }
}

fn map(bytes: usize, place: usize) -> Result<*mut c_void> {
    let spare = PLACES * HUGE_PAGE;
    let whole =
        bytes.checked_next_multiple_of(HUGE_PAGE).and_then(|len| len.checked_add(spare)).ok_or_else(|| none(bytes))?;
    // SAFETY: a new mapping, at a place that the system chooses.
    let mapped =
        unsafe { mmap_anonymous(ptr::null_mut(), whole, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) };
    let first = mapped.map_err(|_| none(bytes))?;
    let before = place_after(first.addr(), place) - first.addr();
    let address = first.wrapping_byte_add(before);
    let end = before + bytes.next_multiple_of(rustix::param::page_size());
    // What is spare goes back. Where the system refuses, that is addresses lost and no memory.
    for (from, to) in [(0, before), (end, whole)] {
        if from < to {
            // SAFETY: a part of the mapping above, which nobody uses.
            let _ = unsafe { munmap(first.wrapping_byte_add(from), to - from) };
        }
    }
    #[cfg(target_os = "linux")]
    // A wish: without huge pages it is only slower.
    // SAFETY: the mapping above, which nobody uses yet.
    let _ = unsafe { rustix::mm::madvise(address, bytes, rustix::mm::Advice::LinuxHugepage) };
    Ok(address)
}

/// The first address from `address` on where a huge page of this place begins.
fn place_after(address: usize, place: usize) -> usize {
    let page = address.div_ceil(HUGE_PAGE);
    (page + (place + PLACES - page % PLACES) % PLACES) * HUGE_PAGE
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

/// Memory that is not a tensor's.
pub struct Block {
    address: *mut c_void,
    bytes: usize,
}

// SAFETY: it is memory that the block owns.
unsafe impl Send for Block {}
// SAFETY: as above; it is written through `&mut` alone.
unsafe impl Sync for Block {}

impl Block {
    /// Zeros. None where there is no room for them, next to what else the machine is asked for.
    pub fn new(bytes: usize) -> Option<Self> {
        room::require(bytes as u64, "a copy of weights").ok()?;
        Some(Self { address: allocate(bytes).ok()?, bytes })
    }

    pub fn read(&self) -> &[u8] {
        // SAFETY: so many bytes.
        unsafe { std::slice::from_raw_parts(self.address.cast(), self.bytes) }
    }

    pub fn write(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.address.cast(), self.bytes) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated with this size.
        unsafe { free(self.address, self.bytes) };
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

    #[test]
    fn blocks_begin_at_the_place_that_is_asked_for_and_one_after_the_other_at_different_ones() {
        let bytes = MAPPED_BYTES + 1;
        let place_of = |block: *mut c_void| {
            assert!(block.addr().is_multiple_of(HUGE_PAGE));
            // SAFETY: the block has as many bytes, and is freed with its size.
            unsafe {
                std::slice::from_raw_parts_mut(block.cast::<u8>(), bytes).fill(1);
                free(block, bytes);
            }
            block.addr() / HUGE_PAGE % PLACES
        };
        for place in 0..PLACES {
            assert_eq!(place_of(map(bytes, place).unwrap()), place);
        }
        let first = place_of(allocate(bytes).unwrap());
        assert!((1..PLACES).any(|_| place_of(allocate(bytes).unwrap()) != first));
    }

    #[test]
    fn the_next_place_is_less_than_a_round_away() {
        for address in [0, 4096, 5 * HUGE_PAGE, 37 * HUGE_PAGE + 1] {
            for place in 0..PLACES {
                let found = place_after(address, place);
                assert!(found >= address && found - address < PLACES * HUGE_PAGE);
                assert!(found.is_multiple_of(HUGE_PAGE) && found / HUGE_PAGE % PLACES == place);
            }
        }
    }
}
