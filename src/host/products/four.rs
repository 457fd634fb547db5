//! Four words at once, as packing moves them: SSE2, NEON, or plain Rust.

#[cfg(target_arch = "aarch64")]
pub(super) use neon::*;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) use plain::*;
#[cfg(target_arch = "x86_64")]
pub(super) use sse::*;

#[cfg(target_arch = "x86_64")]
mod sse {
    use std::arch::x86_64::*;

    pub type Four = __m128i;

    #[inline(always)]
    pub fn transposed([a, b, c, d]: [Four; 4]) -> [Four; 4] {
        // SAFETY: every x86-64 has SSE2, here and below.
        unsafe {
            let (ab, cd) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
            let (ab_high, cd_high) = (_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d));
            [
                _mm_unpacklo_epi64(ab, cd),
                _mm_unpackhi_epi64(ab, cd),
                _mm_unpacklo_epi64(ab_high, cd_high),
                _mm_unpackhi_epi64(ab_high, cd_high),
            ]
        }
    }

    /// The first two words of both, and the last two.
    #[inline(always)]
    pub fn by_halves(a: Four, b: Four) -> [Four; 2] {
        // SAFETY: as above.
        unsafe { [_mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b)] }
    }

    /// Pairs of 4 numbers each.
    ///
    /// # Safety
    /// They are there.
    #[inline(always)]
    pub unsafe fn woven(first: *const u16, second: *const u16) -> Four {
        // SAFETY: the caller's promise.
        unsafe { _mm_unpacklo_epi16(_mm_loadl_epi64(first.cast()), _mm_loadl_epi64(second.cast())) }
    }

    #[inline(always)]
    pub fn seconds(pairs: Four) -> Four {
        // SAFETY: as above.
        unsafe { _mm_and_si128(pairs, _mm_set1_epi32(0xffff_0000u32 as i32)) }
    }

    #[inline(always)]
    pub fn firsts(pairs: Four) -> Four {
        // SAFETY: as above.
        unsafe { _mm_slli_epi32::<16>(pairs) }
    }

    /// # Safety
    /// 4 words are there.
    #[inline(always)]
    pub unsafe fn load(from: *const u32) -> Four {
        // SAFETY: the caller's promise.
        unsafe { _mm_loadu_si128(from.cast()) }
    }

    /// # Safety
    /// There is room for 4 words.
    #[inline(always)]
    pub unsafe fn store(to: *mut u32, words: Four) {
        // SAFETY: the caller's promise.
        unsafe { _mm_storeu_si128(to.cast(), words) };
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    pub type Four = uint32x4_t;

    #[inline(always)]
    pub fn transposed([a, b, c, d]: [Four; 4]) -> [Four; 4] {
        // SAFETY: every aarch64 has NEON, here and below.
        let [ab, cd, ab_high, cd_high] =
            unsafe { [vzip1q_u32(a, b), vzip1q_u32(c, d), vzip2q_u32(a, b), vzip2q_u32(c, d)] };
        let ([first, second], [third, fourth]) = (by_halves(ab, cd), by_halves(ab_high, cd_high));
        [first, second, third, fourth]
    }

    /// The first two words of both, and the last two.
    #[inline(always)]
    pub fn by_halves(a: Four, b: Four) -> [Four; 2] {
        // SAFETY: as above.
        unsafe {
            let (a, b) = (vreinterpretq_u64_u32(a), vreinterpretq_u64_u32(b));
            [vreinterpretq_u32_u64(vzip1q_u64(a, b)), vreinterpretq_u32_u64(vzip2q_u64(a, b))]
        }
    }

    /// Pairs of 4 numbers each.
    ///
    /// # Safety
    /// They are there.
    #[inline(always)]
    pub unsafe fn woven(first: *const u16, second: *const u16) -> Four {
        // SAFETY: the caller's promise.
        unsafe { vorrq_u32(vmovl_u16(vld1_u16(first)), vshlq_n_u32::<16>(vmovl_u16(vld1_u16(second)))) }
    }

    #[inline(always)]
    pub fn seconds(pairs: Four) -> Four {
        // SAFETY: as above.
        unsafe { vandq_u32(pairs, vdupq_n_u32(0xffff_0000)) }
    }

    #[inline(always)]
    pub fn firsts(pairs: Four) -> Four {
        // SAFETY: as above.
        unsafe { vshlq_n_u32::<16>(pairs) }
    }

    /// # Safety
    /// 4 words are there.
    #[inline(always)]
    pub unsafe fn load(from: *const u32) -> Four {
        // SAFETY: the caller's promise. Bytes: words in bf16 lie at even addresses.
        unsafe { vreinterpretq_u32_u8(vld1q_u8(from.cast())) }
    }

    /// # Safety
    /// There is room for 4 words.
    #[inline(always)]
    pub unsafe fn store(to: *mut u32, words: Four) {
        // SAFETY: the caller's promise.
        unsafe { vst1q_u8(to.cast(), vreinterpretq_u8_u32(words)) };
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod plain {
    pub type Four = [u32; 4];

    pub fn transposed(rows: [Four; 4]) -> [Four; 4] {
        [0, 1, 2, 3].map(|i| rows.map(|row| row[i]))
    }

    /// The first two words of both, and the last two.
    pub fn by_halves(a: Four, b: Four) -> [Four; 2] {
        [[a[0], a[1], b[0], b[1]], [a[2], a[3], b[2], b[3]]]
    }

    /// Pairs of 4 numbers each.
    ///
    /// # Safety
    /// They are there.
    pub unsafe fn woven(first: *const u16, second: *const u16) -> Four {
        // SAFETY: the caller's promise.
        [0, 1, 2, 3].map(|i| unsafe { u32::from(*second.add(i)) << 16 | u32::from(*first.add(i)) })
    }

    pub fn seconds(pairs: Four) -> Four {
        pairs.map(|pair| pair & 0xffff_0000)
    }

    pub fn firsts(pairs: Four) -> Four {
        pairs.map(|pair| pair << 16)
    }

    /// # Safety
    /// 4 words are there.
    pub unsafe fn load(from: *const u32) -> Four {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<Four>().read_unaligned() }
    }

    /// # Safety
    /// There is room for 4 words.
    pub unsafe fn store(to: *mut u32, words: Four) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<Four>().write_unaligned(words) };
    }
}
