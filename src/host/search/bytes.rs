//! Products of bytes: 16 rows of weights with some rows of x, their sums in 32 bits, exact.
//!
//! A panel holds 16 rows of weights, four terms of each at a time, so that a vector of it gives four terms to each
//! of 16 sums: no lanes are added up in the end. Of x four terms are broadcast. Where bytes of weights are without a sign, as
//! `vpdpbusd` multiplies them, whoever packs them adds the unit's OFFSET to each.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Rows of weights of a panel.
pub(super) const PANEL: usize = 16;

/// Terms that lie together.
pub(super) const TERMS: usize = 4;

/// Bytes of a step of a panel.
pub(super) const STEP: usize = PANEL * TERMS;

/// The most rows of x that any unit takes at once.
pub(super) const MOST_ROWS: usize = 24;

/// Bytes of x are numbers of -127 to 127.
pub(super) const LEVELS_OF_X: i32 = 127;

/// What is multiplied.
#[derive(Clone, Copy)]
pub(super) struct Job {
    /// Of four terms each.
    pub steps: usize,
    /// Steps of a panel.
    pub weights: *const u8,
    /// Words of four terms with signs, of each of `rows` rows one after the other, step by step.
    pub x: *const i32,
    /// One of the unit's [`WIDTHS`](Unit::WIDTHS).
    pub rows: usize,
    /// (rows, 16)
    pub sums: *mut [i32; PANEL],
}

/// Something that multiplies bytes.
pub(super) trait Unit: Copy + Send + Sync {
    /// Weights have bytes of -LEVELS to LEVELS, x those of [`LEVELS_OF_X`].
    const LEVELS: i32;
    /// Added to those of weights.
    const OFFSET: i32;
    /// Rows of x that it takes at once, in ascending order.
    const WIDTHS: &'static [usize];

    /// # Safety
    /// All is there as [`Job`] says.
    unsafe fn multiply(self, job: &Job);
}

/// What multiplies bytes on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// `vpdpbusd` of 512 bits: since Ice Lake and Zen 4.
    Avx512Vnni,
    /// `vpdpbusd` of 256 bits: Alder Lake and later, where there is no AVX-512.
    AvxVnni,
    /// `vpmaddubsw`, which adds two products in 16 bits: weights have 7 bits there.
    Avx2,
    /// `sdot` of 128 bits: FEAT_DotProd, which ARM's have since 2018, Apple's M1 among them.
    Dotprod,
    /// Plain Rust, for tests.
    Portable,
}

/// `with_unit!(kernel, f(args))`: calls `f` with the kernel's unit as its first argument.
macro_rules! with_unit {
    ($kernel:expr, $f:ident($($args:expr),*)) => {
        match $kernel {
            #[cfg(target_arch = "x86_64")]
            $crate::host::search::bytes::Kernel::Avx512Vnni => $f($crate::host::search::bytes::x86::Avx512Vnni::unit(), $($args),*),
            #[cfg(target_arch = "x86_64")]
            $crate::host::search::bytes::Kernel::AvxVnni => $f($crate::host::search::bytes::x86::AvxVnni::unit(), $($args),*),
            #[cfg(target_arch = "x86_64")]
            $crate::host::search::bytes::Kernel::Avx2 => $f($crate::host::search::bytes::x86::Avx2::unit(), $($args),*),
            #[cfg(target_arch = "aarch64")]
            $crate::host::search::bytes::Kernel::Dotprod => $f($crate::host::search::bytes::arm::Dotprod::unit(), $($args),*),
            $crate::host::search::bytes::Kernel::Portable => $f($crate::host::search::bytes::Portable, $($args),*),
            other => panic!("no machine of this kind has {}", other.name()),
        }
    };
}
pub(super) use with_unit;

impl Kernel {
    pub const ALL: [Self; 5] = [Self::Avx512Vnni, Self::AvxVnni, Self::Avx2, Self::Dotprod, Self::Portable];

    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512Vnni => "avx512vnni",
            Self::AvxVnni => "avxvnni",
            Self::Avx2 => "avx2",
            Self::Dotprod => "dotprod",
            Self::Portable => "portable",
        }
    }

    /// Whether this machine has its instructions.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => is_x86_feature_detected!("avxvnni") && is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            // Sums are as bytes lie there.
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Self::Dotprod => std::arch::is_aarch64_feature_detected!("dotprod"),
            Self::Portable => true,
            _ => false,
        }
    }

    /// Those of this machine, the fastest first and plain Rust last.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|kernel| kernel.is_available())
    }

    /// The fastest one of this machine; None where plain Rust is all there is.
    pub fn fastest() -> Option<Self> {
        Self::available().find(|kernel| *kernel != Self::Portable)
    }
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Unit for Portable {
    const LEVELS: i32 = 127;
    const OFFSET: i32 = 128;
    const WIDTHS: &'static [usize] = &[1, 2, 3];

    unsafe fn multiply(self, job: &Job) {
        // SAFETY: the caller's promise.
        let (weights, x, sums) = unsafe {
            (
                std::slice::from_raw_parts(job.weights, job.steps * STEP),
                std::slice::from_raw_parts(job.x, job.steps * job.rows),
                std::slice::from_raw_parts_mut(job.sums, job.rows),
            )
        };
        sums.fill([0; PANEL]);
        for (weights, x) in weights.chunks_exact(STEP).zip(x.chunks_exact(job.rows)) {
            for (sums, x) in sums.iter_mut().zip(x) {
                for (sum, weights) in sums.iter_mut().zip(weights.chunks_exact(TERMS)) {
                    let products = weights.iter().zip(x.to_le_bytes()).map(|(w, x)| i32::from(*w) * i32::from(x as i8));
                    *sum += products.sum::<i32>();
                }
            }
        }
    }
}

/// A unit for each kernel, of these levels and offset, with the widths that it is compiled for. `$tile` multiplies with `R` rows of x.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! unit {
    ($unit:ident, $levels:literal and $offset:literal, $tile:ident, [$($width:literal),*]) => {
        #[derive(Clone, Copy)]
        pub struct $unit(());

        impl $unit {
            /// # Panics
            /// Where this machine does not have the instructions.
            pub fn unit() -> Self {
                assert!(Kernel::$unit.is_available(), "{:?} on this machine", Kernel::$unit);
                Self(())
            }
        }

        impl Unit for $unit {
            const LEVELS: i32 = $levels;
            const OFFSET: i32 = $offset;
            const WIDTHS: &'static [usize] = &[$($width),*];

            unsafe fn multiply(self, job: &Job) {
                // SAFETY: a unit is made only where it can be used; the caller's promise.
                unsafe {
                    match job.rows {
                        $($width => $tile::<$width>(job),)*
                        other => unreachable!("{other} rows of x"),
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "aarch64")]
pub(super) mod arm {
    use std::arch::aarch64::*;
    use std::arch::asm;

    use super::*;

    unit!(Dotprod, 127 and 0, tile, [1, 2, 4, 6]);

    /// `vdotq_s32`, which is not in Rust yet.
    ///
    /// # Safety
    /// There is FEAT_DotProd.
    #[inline(always)]
    unsafe fn sdot(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: the caller's promise.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
                sums = inout(vreg) sums, a = in(vreg) a, b = in(vreg) b,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sums
    }

    /// 4 sums at a time of each row of x: 24 registers of sums for 6 rows.
    unsafe fn tile<const R: usize>(job: &Job) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [[vdupq_n_s32(0); 4]; R];
            for step in 0..job.steps {
                let weights = job.weights.add(step * STEP).cast::<i8>();
                let weights = [0, 1, 2, 3].map(|quarter| vld1q_s8(weights.add(16 * quarter)));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = vreinterpretq_s8_s32(vdupq_n_s32(*job.x.add(step * R + row)));
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = sdot(*sum, weights, x);
                    }
                }
            }
            for (row, sums) in sums.into_iter().enumerate() {
                for (quarter, sum) in sums.into_iter().enumerate() {
                    vst1q_s32(job.sums.add(row).cast::<i32>().add(4 * quarter), sum);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use super::*;

    unit!(Avx512Vnni, 127 and 128, tile_512, [1, 2, 4, 8, 12, 16, 20, 24]);
    unit!(AvxVnni, 127 and 128, tile_256, [1, 2, 4, 5]);
    unit!(Avx2, 63 and 64, tile_without_vnni, [1, 2, 4]);

    /// Asks for the same step of the next panel: its lines come while this one is multiplied.
    #[inline(always)]
    fn fetch(job: &Job, weights: *const u8) {
        // SAFETY: every x86-64 has SSE, and a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(weights.wrapping_add(job.steps * STEP).cast()) };
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn tile_512<const R: usize>(job: &Job) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [_mm512_setzero_si512(); R];
            for step in 0..job.steps {
                let weights = job.weights.add(step * STEP);
                fetch(job, weights);
                let weights = _mm512_loadu_si512(weights.cast());
                let x = job.x.add(step * R);
                for (row, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_dpbusd_epi32(*sum, weights, _mm512_set1_epi32(*x.add(row)));
                }
            }
            for (row, sum) in sums.into_iter().enumerate() {
                _mm512_storeu_si512(job.sums.add(row).cast(), sum);
            }
        }
    }

    /// A tile of 256 bits, whose halves of a step are multiplied as `$add` says.
    macro_rules! tile_of_halves {
        ($tile:ident, $features:literal, |$sum:ident, $weights:ident, $x:ident| $add:expr) => {
            #[target_feature(enable = $features)]
            unsafe fn $tile<const R: usize>(job: &Job) {
                // SAFETY: the caller's promise.
                unsafe {
                    let mut sums = [[_mm256_setzero_si256(); 2]; R];
                    for step in 0..job.steps {
                        let weights = job.weights.add(step * STEP);
                        fetch(job, weights);
                        let halves = [0, 1].map(|half| _mm256_loadu_si256(weights.cast::<__m256i>().add(half)));
                        let x = job.x.add(step * R);
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let $x = _mm256_set1_epi32(*x.add(row));
                            for ($sum, $weights) in sums.iter_mut().zip(halves) {
                                *$sum = $add;
                            }
                        }
                    }
                    for (row, sums) in sums.into_iter().enumerate() {
                        for (half, sum) in sums.into_iter().enumerate() {
                            _mm256_storeu_si256(job.sums.add(row).cast::<__m256i>().add(half), sum);
                        }
                    }
                }
            }
        };
    }

    tile_of_halves!(tile_256, "avx2,avxvnni", |sum, w, x| _mm256_dpbusd_avx_epi32(*sum, w, x));
    // Two products of at most 127 * 127 are a number of 16 bits.
    tile_of_halves!(tile_without_vnni, "avx2", |sum, w, x| _mm256_add_epi32(
        *sum,
        _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1))
    ));
}
