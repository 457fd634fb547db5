//! The inner loops, compiled for each vector unit with its instructions: a loop that is not would call a function for each.

#[cfg(target_arch = "x86_64")]
use super::avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use super::avx512::{Avx512, Avx512Bf16};
use super::dots::{Dots, dots};
use super::portable::{Portable, PortablePairs};
use super::spin::spin;
use super::tile::{Finish, Tile, tile};
use super::unit::Unit;

/// A unit with its loops.
pub(super) trait Compiled: Unit {
    /// [`tile`] of ROWS by COLS.
    ///
    /// # Safety
    /// As that.
    unsafe fn tile(self, job: &Tile);

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

    /// [`spin`].
    fn spin(self, steps: usize);
}

macro_rules! compiled {
    ($unit:ident $(, $features:literal)?) => {
        impl Compiled for $unit {
            unsafe fn tile(self, job: &Tile) {
                $(#[target_feature(enable = $features)])?
                unsafe fn compiled(unit: $unit, job: &Tile) {
                    // SAFETY: the caller's promise.
                    unsafe { tile::<$unit, { $unit::ROWS }, { $unit::COLS / $unit::LANES }>(unit, job) };
                }
                // SAFETY: whoever holds a unit may use it; the caller's promise.
                unsafe { compiled(self, job) };
            }

            unsafe fn finish(self, to: &Finish, sums: *const f32) {
                $(#[target_feature(enable = $features)])?
                unsafe fn compiled(unit: $unit, to: &Finish, sums: *const f32) {
                    // SAFETY: the caller's promise.
                    unsafe { to.store(unit, sums) };
                }
                // SAFETY: as above.
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

            fn spin(self, steps: usize) {
                $(#[target_feature(enable = $features)])?
                unsafe fn compiled(unit: $unit, steps: usize) {
                    spin(unit, steps);
                }
                // SAFETY: as above.
                unsafe { compiled(self, steps) };
            }
        }
    };
}

compiled!(Portable);
compiled!(PortablePairs);
#[cfg(target_arch = "x86_64")]
compiled!(Avx2, "avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled!(Avx512, "avx512f");
#[cfg(target_arch = "x86_64")]
compiled!(Avx512Bf16, "avx512f,avx512bf16");
