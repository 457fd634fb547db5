//! Units that multiply small matrices, in plain Rust: to test on every machine how panels lie for them.

use super::pack::Layout;
use super::portable::{PortablePairs, first, fused, second};
use super::tile::Tile;
use super::tiles::Tiles;

/// A tile of R by C whose panels of a and b have A and B words of a line together, which computes as
/// [AMX](super::amx::Amx) does: of 16 pairs at a time, the first terms and the second ones are summed, and both are added to a sum.
#[derive(Clone, Copy)]
pub(super) struct Squares<const R: usize, const C: usize, const A: usize, const B: usize>;

/// AMX's tile.
pub(super) type OfAmx = Squares<32, 32, 16, 1>;

/// The tile of `bfmmla`, whose sums differ in their rounding.
pub(super) type OfBfmmla = Squares<8, 12, 2, 2>;

impl<const R: usize, const C: usize, const A: usize, const B: usize> Squares<R, C, A, B> {
    const WORDS: usize = if A > B { A } else { B };

    /// # Safety
    /// Panels and sums are there as [`Tile`] says.
    unsafe fn sums(job: &Tile) {
        let (of_a, of_b) = (Layout { width: R, together: A }, Layout { width: C, together: B });
        for (row, col) in (0..R).flat_map(|row| (0..C).map(move |col| (row, col))) {
            // SAFETY: the caller's promise, here and below.
            let sum = unsafe { &mut *job.sums.wrapping_add(row * C + col) };
            if !job.add {
                *sum = 0.0;
            }
            for from in (0..job.steps).step_by(Self::WORDS) {
                let (mut seconds, mut firsts) = (0.0, 0.0);
                for word in from..from + Self::WORDS {
                    // SAFETY: as above.
                    let [a, b] = unsafe { [*job.a.add(of_a.place(word, row)), *job.b.add(of_b.place(word, col))] };
                    (seconds, firsts) = (fused(second(a), second(b), seconds), fused(first(a), first(b), firsts));
                }
                *sum += firsts + seconds;
            }
        }
    }
}

impl<const R: usize, const C: usize, const A: usize, const B: usize> Tiles for Squares<R, C, A, B> {
    const PAIRS: bool = true;
    const ROWS: usize = R;
    const COLS: usize = C;
    const TOGETHER: [usize; 2] = [A, B];
    type Vectors = PortablePairs;

    fn vectors(self) -> PortablePairs {
        PortablePairs
    }

    unsafe fn tile(self, job: &Tile) {
        // SAFETY: the caller's promise.
        unsafe {
            Self::sums(job);
            job.finish(PortablePairs);
        }
    }

    fn spin(self, steps: usize) -> usize {
        PortablePairs.spin(steps)
    }
}
