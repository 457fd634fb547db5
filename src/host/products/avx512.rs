//! AVX-512: 16 lanes and 32 registers; with AVX512-BF16 one instruction multiplies and adds 16 pairs of bf16.
//!
//! AVX512-VL is asked for, too: without it what is done with half a register can name only the first 16 of them, and the
//! compiler kept sums that are added up in the end in memory rather than in the others. Every CPU with AVX-512 but Xeon Phi has it.

use std::arch::x86_64::*;

use half::bf16;

use super::unit::Unit;

/// AVX-512 in f32.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// AVX512-BF16.
#[derive(Clone, Copy)]
pub(super) struct Avx512Bf16(());

impl Avx512 {
    pub fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl")).then_some(Self(()))
    }
}

impl Avx512Bf16 {
    pub fn new() -> Option<Self> {
        (Avx512::new().is_some() && is_x86_feature_detected!("avx512bf16")).then_some(Self(()))
    }
}

/// The totals of four vectors: halves are added, then as AVX2 does.
///
/// # Safety
/// There is AVX-512.
#[inline(always)]
unsafe fn totals([a, b, c, d]: [__m512; 4]) -> [f32; 4] {
    let mut totals = [0.0; 4];
    // SAFETY: the caller's promise; four numbers are stored.
    unsafe {
        let (a, b, c, d) = (halves_added(a), halves_added(b), halves_added(c), halves_added(d));
        let ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        let (ab, cd) = (_mm256_castps_pd(ab), _mm256_castps_pd(cd));
        let (low, high) = (_mm256_unpacklo_pd(ab, cd), _mm256_unpackhi_pd(ab, cd));
        let abcd = _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high));
        let sum = _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps::<1>(abcd));
        _mm_storeu_ps(totals.as_mut_ptr(), sum);
    }
    totals
}

/// # Safety
/// There is AVX-512.
#[inline(always)]
unsafe fn halves_added(sums: __m512) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(sums));
        _mm256_add_ps(_mm512_castps512_ps256(sums), _mm256_castpd_ps(high))
    }
}

macro_rules! unit {
    ($unit:ident, $pairs:expr, $weights:literal by $rows:literal, |$sums:ident, $a:ident, $b:ident| $add:expr) => {
        impl Unit for $unit {
            const PAIRS: bool = $pairs;
            const LANES: usize = 16;
            const DOTS: [(usize, usize); 2] = [($weights, $rows), (4, 5)];
            type Sums = __m512;
            type Words = __m512i;

            #[inline(always)]
            fn zero(self) -> __m512 {
                // SAFETY: a `Self` is made only where there is AVX-512; so in all that follows.
                unsafe { _mm512_setzero_ps() }
            }

            #[inline(always)]
            unsafe fn load(self, from: *const f32) -> __m512 {
                // SAFETY: as above, and the caller's promise.
                unsafe { _mm512_loadu_ps(from) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32, sums: __m512) {
                // SAFETY: as above.
                unsafe { _mm512_storeu_ps(to, sums) };
            }

            #[inline(always)]
            unsafe fn stream(self, to: *mut f32, sums: __m512) {
                // SAFETY: as above.
                unsafe { _mm512_stream_ps(to, sums) };
            }

            #[inline(always)]
            unsafe fn widened(self, from: *const bf16) -> __m512 {
                // SAFETY: as above.
                unsafe {
                    let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
                }
            }

            #[inline(always)]
            unsafe fn narrowed(self, to: *mut bf16, sums: __m512) {
                // SAFETY: as above.
                unsafe {
                    let bits = _mm512_castps_si512(sums);
                    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                    let up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
                    let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, up));
                    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(sums, sums);
                    let words = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fff));
                    _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(words));
                }
            }

            #[inline(always)]
            fn add(self, a: __m512, b: __m512) -> __m512 {
                // SAFETY: as above.
                unsafe { _mm512_add_ps(a, b) }
            }

            #[inline(always)]
            unsafe fn words(self, from: *const u32) -> __m512i {
                // SAFETY: as above.
                unsafe { _mm512_loadu_si512(from.cast()) }
            }

            #[inline(always)]
            unsafe fn all(self, from: *const u32) -> __m512i {
                // SAFETY: as above.
                unsafe { _mm512_set1_epi32(from.read_unaligned() as i32) }
            }

            #[inline(always)]
            fn multiply_add(self, $sums: __m512, $a: __m512i, $b: __m512i) -> __m512 {
                // SAFETY: as above; 512 bits are 512 bits.
                unsafe { $add }
            }

            #[inline(always)]
            fn halves(self, pairs: __m512i) -> [__m512i; 2] {
                let mask = 0xffff_0000u32 as i32;
                // SAFETY: as above.
                unsafe { [_mm512_and_si512(pairs, _mm512_set1_epi32(mask)), _mm512_slli_epi32::<16>(pairs)] }
            }

            #[inline(always)]
            fn totals(self, sums: [__m512; 4]) -> [f32; 4] {
                // SAFETY: as above.
                unsafe { totals(sums) }
            }
        }
    };
}

unit!(Avx512, false, 4 by 5, |sums, a, b| _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sums));
unit!(Avx512Bf16, true, 4 by 6, |sums, a, b| _mm512_dpbf16_ps(
    sums,
    std::mem::transmute::<__m512i, __m512bh>(a),
    std::mem::transmute::<__m512i, __m512bh>(b)
));
