//! What products are computed with: vector units with their loops, and what computes tiles.

use super::dots::Dots;
use super::tile::{Finish, Tile};
use super::unit::Unit;

/// A vector unit with its loops.
pub(super) trait Compiled: Unit {
    /// [`Finish::store`].
    ///
    /// # Safety
    /// As that.
    unsafe fn finish(self, to: &Finish, sums: *const f32);

    /// [`dots`] with as many rows of weights as DOTS says.
    ///
    /// # Safety
    /// As that.
    unsafe fn dots<const WIDE: bool>(self, job: &Dots);
}

/// What computes the tiles of a blocked product: a vector unit, or one that multiplies small matrices.
pub(super) trait Tiles: Copy + Send + Sync {
    /// Whether a word is a pair of bf16.
    const PAIRS: bool;
    /// Rows and columns of a tile: its sums fill most registers.
    const ROWS: usize;
    const COLS: usize;
    /// Words of a line that lie together in a panel of a, and of b ([`Layout`](super::pack::Layout)).
    const TOGETHER: [usize; 2] = [1, 1];
    /// Whether its machines have a second-level cache of a megabyte and more: tiles then sum over more terms at once, ask for what is
    /// packed next, and write a large c past the caches.
    const HAS_LARGE_CACHES: bool = false;
    /// What all else is done with.
    type Vectors: Compiled;

    fn vectors(self) -> Self::Vectors;

    /// Computes a tile of ROWS by COLS, and does what was asked for with it.
    ///
    /// # Safety
    /// Panels, sums and c are there as [`Tile`] says.
    unsafe fn tile(self, job: &Tile);

    /// `steps` rounds of multiply-adds that never leave the registers: how many FLOP they were.
    fn spin(self, steps: usize) -> usize;
}
