//! AVX2 with FMA: 8 lanes of f32, two products a cycle, 16 registers. bf16 is widened on the way in.

use std::arch::x86_64::*;

use half::bf16;

use super::unit::Unit;

/// AVX2 and FMA.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    pub fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

impl Unit for Avx2 {
    const PAIRS: bool = false;
    const LANES: usize = 8;
    // In bf16 each row of weights needs two registers more, for its halves.
    const DOTS: [(usize, usize); 2] = [(2, 5), (3, 4)];
    type Sums = __m256;
    type Words = __m256i;

    #[inline(always)]
    fn zero(self) -> __m256 {
        // SAFETY: a `Self` is made only where there is AVX2; so in all that follows.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        // SAFETY: as above, and the caller's promise.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, sums: __m256) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(to, sums) };
    }

    #[inline(always)]
    unsafe fn widened(self, from: *const bf16) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast())))) }
    }

    #[inline(always)]
    unsafe fn narrowed(self, to: *mut bf16, sums: __m256) {
        // SAFETY: as above.
        unsafe {
            let bits = _mm256_castps_si256(sums);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
            let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, up));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(sums, sums));
            let words = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fff), nan);
            let halves = _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.cast(), halves);
        }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn words(self, from: *const u32) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn all(self, from: *const u32) -> __m256i {
        // SAFETY: as above. The address is one of a u32: an f32 asks for no more alignment.
        unsafe { _mm256_castps_si256(_mm256_broadcast_ss(&*from.cast())) }
    }

    #[inline(always)]
    fn multiply_add(self, sums: __m256, a: __m256i, b: __m256i) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), sums) }
    }

    #[inline(always)]
    fn halves(self, pairs: __m256i) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000u32 as i32)), _mm256_slli_epi32::<16>(pairs)] }
    }

    #[inline(always)]
    fn totals(self, [a, b, c, d]: [__m256; 4]) -> [f32; 4] {
        let mut totals = [0.0; 4];
        // SAFETY: as above; four numbers are stored.
        unsafe {
            // Lanes 0 and 4, 1 and 5, .. of a and b side by side, and of c and d; then all four.
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
}
