//! Asking for memory before it is read, and what has to be said after writing it past the caches.

/// Bytes that a cache keeps together.
pub(super) const LINE: usize = 64;

/// Lines of memory that are asked for one by one, between other work: those of rows that lie `stride` bytes apart.
///
/// A core waits for some 16 lines at most. Asked for all at once they would hold up what comes from the caches.
#[derive(Clone, Copy, Default)]
pub(super) struct Ahead {
    address: usize,
    lines_of_row: usize,
    stride: usize,
    /// Which line of the row at `address` is next.
    line: usize,
    /// Lines that have not been asked for.
    left: usize,
}

impl Ahead {
    /// Part `part` of `parts` of `rows` rows of `bytes` bytes, the first one at `address`.
    pub fn new(address: *const u8, [rows, bytes, stride]: [usize; 3], (part, parts): (usize, usize)) -> Self {
        let lines_of_row = bytes.div_ceil(LINE).max(1);
        let lines = if bytes == 0 { 0 } else { rows * lines_of_row };
        let [first, end] = [part, part + 1].map(|part| lines * part / parts);
        let (row, line) = (first / lines_of_row, first % lines_of_row);
        let address = address.addr().wrapping_add(row.wrapping_mul(stride));
        Self { address, lines_of_row, stride, line, left: end - first }
    }

    /// Asks for the next line.
    #[inline(always)]
    pub fn fetch_next(&mut self) {
        if let Some(address) = self.next() {
            fetch_far(std::ptr::without_provenance(address));
        }
    }
}

impl Iterator for Ahead {
    type Item = usize;

    /// The address of a line.
    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let address = self.address.wrapping_add(self.line * LINE);
        self.line += 1;
        if self.line == self.lines_of_row {
            self.line = 0;
            self.address = self.address.wrapping_add(self.stride);
        }
        Some(address)
    }
}

/// Asks for the line of memory at an address, for the second-level cache; any address will do.
#[inline(always)]
pub(super) fn fetch_far(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has SSE, and a prefetch never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch never faults.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}

/// Asks for the line of memory at an address; any address will do.
#[inline(always)]
pub(super) fn fetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has SSE, and a prefetch never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch never faults.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}

/// After writing past the caches: others see it when they see what is written from now on.
#[inline(always)]
pub(super) fn streamed() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has SSE.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_together_are_every_line_of_every_row_once() {
        for (rows, bytes, stride, parts) in [(3, 640, 1024, 7), (1, 64, 64, 5), (5, 65, 128, 2), (4, 100, 2048, 1)] {
            let base = 1 << 20;
            let part = |part| Ahead::new(std::ptr::without_provenance(base), [rows, bytes, stride], (part, parts));
            let lines: Vec<usize> = (0..parts).flat_map(part).collect();
            let expected =
                (0..rows).flat_map(|row| (0..bytes).step_by(LINE).map(move |byte| base + row * stride + byte));
            assert_eq!(lines, expected.collect::<Vec<_>>(), "{rows} rows of {bytes} bytes, {stride} apart");
        }
    }

    #[test]
    fn of_nothing_there_is_no_line() {
        assert_eq!(Ahead::default().next(), None);
        for rows_and_bytes in [[0, 64, 64], [2, 0, 64]] {
            assert_eq!(Ahead::new(std::ptr::null(), rows_and_bytes, (0, 1)).next(), None);
        }
    }
}
