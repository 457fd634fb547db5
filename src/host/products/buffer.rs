//! Memory for what products pack and sum up: aligned to cache lines, and kept by each thread for its next product.

use std::cell::Cell;

/// A cache line of words: vectors of a panel never cross one.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; 16]);

thread_local! {
    /// Memory for packed panels and sums, kept for the next product. One that is in use is not here.
    static BUFFERS: Cell<Vec<Vec<Line>>> = const { Cell::new(Vec::new()) };
}

/// Bytes of a buffer that is kept: larger ones are used for so long that new memory costs little.
const MOST_KEPT: usize = 32 << 20;

/// Words that go back to their thread for the next product.
pub(super) struct Buffer {
    lines: Vec<Line>,
    len: usize,
}

impl Buffer {
    pub fn new(len: usize) -> Self {
        let mut kept = BUFFERS.take();
        let mut lines = kept.pop().unwrap_or_default();
        BUFFERS.set(kept);
        if lines.len() < len.div_ceil(16) {
            lines.resize(len.div_ceil(16), Line([0; 16]));
        }
        Self { lines, len }
    }

    pub fn read(&self) -> &[u32] {
        // SAFETY: a `Line` is 16 words without anything between them.
        let words = unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast::<u32>(), self.lines.len() * 16) };
        &words[..self.len]
    }

    pub fn words(&mut self) -> &mut [u32] {
        // SAFETY: as above.
        let words =
            unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast::<u32>(), self.lines.len() * 16) };
        &mut words[..self.len]
    }

    pub fn sums(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(self.words())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut kept = BUFFERS.take();
        if self.lines.len() * size_of::<Line>() <= MOST_KEPT {
            kept.push(std::mem::take(&mut self.lines));
        }
        BUFFERS.set(kept);
    }
}
