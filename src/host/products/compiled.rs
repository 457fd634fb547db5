//! The inner loops, compiled for each vector unit with its instructions: a loop that is not would call a function for each.

#[cfg(target_arch = "x86_64")]
use super::avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use super::avx512::{Avx512, Avx512Bf16};
use super::dots::{Dots, dots};
#[cfg(target_arch = "aarch64")]
use super::neon::{Neon, NeonBf16};
use super::portable::{Portable, PortablePairs};
use super::spin::spin;
use super::tile::{Finish, Tile, vectors};
use super::tiles::{Compiled, Tiles};
use super::unit::Unit;

macro_rules! compiled {
    ($unit:ident $(, $features:literal)?) => {
        impl Compiled for $unit {
            unsafe fn finish(self, to: &Finish, sums: *const f32) {
                $(#[target_feature(enable = $features)])?
                unsafe fn compiled(unit: $unit, to: &Finish, sums: *const f32) {
                    // SAFETY: the caller's promise.
                    unsafe { to.store(unit, sums) };
                }
                // SAFETY: whoever holds a unit may use it; the caller's promise.
                unsafe { compiled(self, to, sums) };
            }

            unsafe fn dots<const WIDE: bool>(self, job: &Dots) {
                $(#[target_feature(enable = $features)])?
                unsafe fn compiled<const WIDE: bool>(unit: $unit, job: &Dots) {
                    // SAFETY: the caller's promise.
                    unsafe {
                        if WIDE {
                            dots::<$unit, WIDE, { $unit::DOTS[1].0 }>(unit, job);
                        } else {
                            dots::<$unit, WIDE, { $unit::DOTS[0].0 }>(unit, job);
                        }
                    }
                }
                // SAFETY: as above.
                unsafe { compiled::<WIDE>(self, job) };
            }
        }
    };
}

/// A vector unit whose tiles have so many rows, and columns in so many vectors; whether its machines have large caches.
macro_rules! tiles {
    ($unit:ident, $rows:literal x $vectors:literal, $large:literal $(, $features:literal)?) => {
        impl Tiles for $unit {
            const PAIRS: bool = <Self as Unit>::PAIRS;
            const ROWS: usize = $rows;
            const COLS: usize = $vectors * Self::LANES;
            const HAS_LARGE_CACHES: bool = $large;
            type Vectors = Self;

            fn vectors(self) -> Self {
                self
            }

            unsafe fn tile(self, job: &Tile) {
                $(#[target_feature(enable = $features)])?
                unsafe fn compiled(unit: $unit, job: &Tile) {
                    job.fetch();
                    // SAFETY: the caller's promise.
                    unsafe {
                        vectors::<$unit, $rows, $vectors, $large>(unit, job);
                        job.finish(unit);
                    }
                }
                // SAFETY: whoever holds a unit may use it; the caller's promise.
                unsafe { compiled(self, job) };
            }

            fn spin(self, steps: usize) -> usize {
                $(#[target_feature(enable = $features)])?
                unsafe fn compiled(unit: $unit, steps: usize) -> usize {
                    spin(unit, steps)
                }
                // SAFETY: as above.
                unsafe { compiled(self, steps) }
            }
        }
    };
}

compiled!(Portable);
tiles!(Portable, 4 x 1, false);
compiled!(PortablePairs);
tiles!(PortablePairs, 12 x 2, true);
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;
    compiled!(Avx2, "avx2,fma");
    tiles!(Avx2, 6 x 2, false, "avx2,fma");
    compiled!(Avx512, "avx512f,avx512vl");
    tiles!(Avx512, 12 x 2, true, "avx512f,avx512vl");
    compiled!(Avx512Bf16, "avx512f,avx512vl,avx512bf16");
    tiles!(Avx512Bf16, 12 x 2, true, "avx512f,avx512vl,avx512bf16");
}
#[cfg(target_arch = "aarch64")]
mod arm {
    use super::*;
    compiled!(Neon);
    tiles!(Neon, 8 x 3, false);
    compiled!(NeonBf16, "bf16");
}
