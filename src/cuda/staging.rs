//! Page-locked host memory that copies to the GPU pass through: a copy is asynchronous and the caller may go on at once.

use std::collections::VecDeque;
use std::ffi::c_void;

use cudarc::driver::sys::{CUevent, CUevent_flags, CUstream};
use cudarc::driver::{DriverError, result};

/// Copies are cut into pieces of at most this: page-locked memory is taken from all other programs.
pub(super) const PIECE_BYTES: usize = 16 << 20;

/// Buffers of one stream.
#[derive(Default)]
pub(super) struct Staging {
    /// The one that was used longest ago first.
    buffers: VecDeque<Pinned>,
}

impl Staging {
    /// Copies that may be under way at once.
    const BUFFERS: usize = 4;

    /// Queues copies of `from` to `to`. The context is current.
    ///
    /// # Safety
    /// `to` is memory of the GPU, as long as `from`, until `stream` has passed the copies.
    pub unsafe fn copy(&mut self, to: u64, from: &[u8], stream: CUstream) -> Result<(), DriverError> {
        for (at, piece) in from.chunks(PIECE_BYTES).enumerate() {
            let buffer = self.take(piece.len())?;
            // SAFETY: the caller's promise. A buffer that failed waits for the stream before it goes.
            unsafe { buffer.send(to + (at * PIECE_BYTES) as u64, piece, stream)? };
            self.buffers.push_back(buffer);
        }
        Ok(())
    }

    /// A buffer of at least this size that no copy reads any more.
    fn take(&mut self, bytes: usize) -> Result<Pinned, DriverError> {
        if self.buffers.len() < Self::BUFFERS {
            return Pinned::new(bytes);
        }
        match self.buffers.pop_front() {
            Some(buffer) if buffer.bytes >= bytes => {
                buffer.wait()?;
                Ok(buffer)
            }
            _ => Pinned::new(bytes),
        }
    }
}

struct Pinned {
    memory: *mut c_void,
    bytes: usize,
    /// Passed by the stream once the last copy from here has been made.
    copied: CUevent,
}

impl Pinned {
    const LEAST_BYTES: usize = 1 << 20;

    fn new(bytes: usize) -> Result<Self, DriverError> {
        let bytes = bytes.next_power_of_two().max(Self::LEAST_BYTES);
        let copied = result::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        // SAFETY: a plain allocation; the context is current.
        match unsafe { result::malloc_host(bytes, 0) } {
            Ok(memory) => Ok(Self { memory, bytes, copied }),
            Err(error) => {
                // SAFETY: made above, and no stream knows it. The first error is the one to tell.
                let _ = unsafe { result::event::destroy(copied) };
                Err(error)
            }
        }
    }

    /// Waits until no copy reads the buffer.
    fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: the event lives as long as `self`. One that no stream was told of counts as passed.
        unsafe { result::event::synchronize(self.copied) }
    }

    /// Queues a copy of `from`, which fits; when the end of the copy could not be noted, it has ended.
    ///
    /// # Safety
    /// See [`Staging::copy`]; no copy reads the buffer.
    unsafe fn send(&self, to: u64, from: &[u8], stream: CUstream) -> Result<(), DriverError> {
        // SAFETY: the caller's promise, and the buffer has room.
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr(), self.memory.cast(), from.len());
            let staged = std::slice::from_raw_parts(self.memory.cast::<u8>(), from.len());
            let queued = result::memcpy_htod_async(to, staged, stream);
            queued.and_then(|()| result::event::record(self.copied, stream)).inspect_err(|_| {
                let _ = result::stream::synchronize(stream);
            })
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = self.wait();
        // SAFETY: both were made by `new`, and no copy reads them any more, or the context is broken. Drop cannot report
        // errors.
        unsafe {
            let _ = result::event::destroy(self.copied);
            let _ = result::free_host(self.memory);
        }
    }
}
