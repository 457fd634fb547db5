//! A vector unit as the products see it: sums in f32, and words that are multiplied.
//!
//! A word is 32 bits. For a unit of pairs it is two neighbouring terms in bf16, and one instruction adds both products; for
//! the others it is one f32. In both the second term of a pair is added before the first, as `vdpbf16ps` does, so that
//! units give the same sums to the bit (the instruction flushes what is smaller than 2^-126, the others do not). Those of
//! `bfdot` differ: it adds the two products first, and rounds to odd.

use half::bf16;

/// A vector unit that this machine has: whoever holds one may run its instructions.
pub(super) trait Unit: Copy + Send + Sync {
    /// Whether a word is a pair of bf16.
    const PAIRS: bool;
    /// Words of a vector.
    const LANES: usize;
    /// Rows of weights, and of x, of a tile of dot products: with weights in bf16, and in f32.
    const DOTS: [(usize, usize); 2];
    /// LANES sums in f32.
    type Sums: Copy;
    /// LANES words.
    type Words: Copy;

    fn zero(self) -> Self::Sums;

    /// # Safety
    /// LANES numbers are there. No alignment is asked for, here and below.
    unsafe fn load(self, from: *const f32) -> Self::Sums;

    /// # Safety
    /// There is room for LANES numbers.
    unsafe fn store(self, to: *mut f32, sums: Self::Sums);

    /// [`Unit::store`] past the caches, where the machine can.
    ///
    /// # Safety
    /// As that, at a multiple of a cache line.
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32, sums: Self::Sums) {
        // SAFETY: the caller's promise.
        unsafe { self.store(to, sums) };
    }

    /// LANES numbers of bf16 in f32.
    ///
    /// # Safety
    /// They are there.
    unsafe fn widened(self, from: *const bf16) -> Self::Sums;

    /// Rounds to nearest, ties to even; NaN stays NaN.
    ///
    /// # Safety
    /// There is room for LANES numbers.
    unsafe fn narrowed(self, to: *mut bf16, sums: Self::Sums);

    fn add(self, a: Self::Sums, b: Self::Sums) -> Self::Sums;

    /// # Safety
    /// LANES words are there.
    unsafe fn words(self, from: *const u32) -> Self::Words;

    /// One word in all lanes.
    ///
    /// # Safety
    /// It is there.
    unsafe fn all(self, from: *const u32) -> Self::Words;

    /// sums + a * b, lane by lane.
    fn multiply_add(self, sums: Self::Sums, a: Self::Words, b: Self::Words) -> Self::Sums;

    /// The second and the first terms of LANES pairs of bf16, each in f32: for units whose word is one f32.
    fn halves(self, pairs: Self::Words) -> [Self::Words; 2];

    /// The sum over the lanes of each, in a fixed order.
    fn totals(self, sums: [Self::Sums; 4]) -> [f32; 4];
}
