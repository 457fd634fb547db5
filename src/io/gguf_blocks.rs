//! The block formats of ggml and how each is decoded; layouts as in ggml's `ggml-common.h`, products and sums rounded
//! once each in f32, as `ggml-quants.c` does.
//!
//! Every block is `elements` numbers in `bytes` bytes. Scales are f16 (`d`), minima too (`m`, `dmin`). Nibbles hold the
//! first half of the numbers in their low and the second half in their high four bits.

use half::f16;

use super::convert::{self, Encoding};

/// The encoding of ggml's type `id`, or `None` for a type that is not read.
pub(super) fn encoding(id: u32) -> Option<Encoding> {
    let block = |elements, bytes, decode| Some(Encoding { elements, bytes, decode });
    match id {
        0 => Some(convert::F32),
        1 => Some(convert::F16),
        2 => block(32, 18, decode_q4_0),
        3 => block(32, 20, decode_q4_1),
        6 => block(32, 22, decode_q5_0),
        7 => block(32, 24, decode_q5_1),
        8 => block(32, 34, decode_q8_0),
        12 => block(256, 144, decode_q4_k),
        13 => block(256, 176, decode_q5_k),
        14 => block(256, 210, decode_q6_k),
        30 => Some(convert::BF16),
        _ => None,
    }
}

/// The name of ggml's type `id`, for messages.
pub(super) fn type_name(id: u32) -> String {
    let names = [
        (9, "Q8_1"),
        (10, "Q2_K"),
        (11, "Q3_K"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (20, "IQ4_NL"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (23, "IQ4_XS"),
        (24, "I8"),
        (25, "I16"),
        (26, "I32"),
        (27, "I64"),
        (28, "F64"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (39, "MXFP4"),
    ];
    names.iter().find(|(known, _)| *known == id).map_or_else(|| format!("type {id}"), |(_, name)| (*name).into())
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Calls `decode` with every block of `N` bytes and the `M` numbers it becomes.
fn each_block<const N: usize, const M: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn(&[u8; N], &mut [f32; M])) {
    for (block, out) in bytes.as_chunks::<N>().0.iter().zip(out.as_chunks_mut::<M>().0) {
        decode(block, out);
    }
}

/// d(2) nibbles(16): `d * (q - 8)`.
fn decode_q4_0(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |block: &[u8; 18], out: &mut [f32; 32]| {
        let d = half(block, 0);
        for (i, &q) in block[2..].iter().enumerate() {
            out[i] = d * (f32::from(q & 15) - 8.0);
            out[i + 16] = d * (f32::from(q >> 4) - 8.0);
        }
    });
}

/// d(2) m(2) nibbles(16): `d * q + m`.
fn decode_q4_1(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |block: &[u8; 20], out: &mut [f32; 32]| {
        let (d, m) = (half(block, 0), half(block, 2));
        for (i, &q) in block[4..].iter().enumerate() {
            out[i] = d * f32::from(q & 15) + m;
            out[i + 16] = d * f32::from(q >> 4) + m;
        }
    });
}

/// The two five-bit numbers i and i + 16 of a block: a nibble each, and bits i and i + 16 of `high` on top.
fn five_bits(q: u8, high: u32, i: usize) -> (f32, f32) {
    let bit = |i: usize| ((high >> i & 1) << 4) as u8;
    (f32::from(q & 15 | bit(i)), f32::from(q >> 4 | bit(i + 16)))
}

/// d(2) high bits(4) nibbles(16): `d * (q - 16)`.
fn decode_q5_0(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |block: &[u8; 22], out: &mut [f32; 32]| {
        let d = half(block, 0);
        let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
        for (i, &q) in block[6..].iter().enumerate() {
            let (a, b) = five_bits(q, high, i);
            (out[i], out[i + 16]) = (d * (a - 16.0), d * (b - 16.0));
        }
    });
}

/// d(2) m(2) high bits(4) nibbles(16): `d * q + m`.
fn decode_q5_1(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |block: &[u8; 24], out: &mut [f32; 32]| {
        let (d, m) = (half(block, 0), half(block, 2));
        let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
        for (i, &q) in block[8..].iter().enumerate() {
            let (a, b) = five_bits(q, high, i);
            (out[i], out[i + 16]) = (d * a + m, d * b + m);
        }
    });
}

/// d(2) signed bytes(32): `d * q`.
fn decode_q8_0(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |block: &[u8; 34], out: &mut [f32; 32]| {
        let d = half(block, 0);
        for (x, &q) in out.iter_mut().zip(&block[2..]) {
            *x = d * f32::from(q as i8);
        }
    });
}

/// The six-bit scale and minimum of group `j` (0 to 7), packed in 12 bytes: those of groups 0 to 3 are the low six bits
/// of bytes 0 to 3 and 4 to 7; those of 4 to 7 are the nibbles of bytes 8 to 11 under the top two bits of bytes 0 to 7.
fn scale_and_minimum(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, minimum) = match j {
        0..4 => (packed[j] & 63, packed[j + 4] & 63),
        _ => (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4),
    };
    (f32::from(scale), f32::from(minimum))
}

/// d(2) dmin(2) scales(12) nibbles(128): eight groups of 32, `d * scale * q - dmin * minimum`. A pair of groups shares
/// 32 bytes, one in the low and one in the high nibbles.
fn decode_q4_k(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |block: &[u8; 144], out: &mut [f32; 256]| {
        let (d, dmin) = (half(block, 0), half(block, 2));
        for (j, out) in out.chunks_mut(32).enumerate() {
            let (scale, minimum) = scale_and_minimum(&block[4..16], j);
            let (d, m) = (d * scale, dmin * minimum);
            for (x, &q) in out.iter_mut().zip(&block[16 + j / 2 * 32..]) {
                *x = d * f32::from(q >> (j % 2 * 4) & 15) - m;
            }
        }
    });
}

/// d(2) dmin(2) scales(12) high bits(32) nibbles(128): as Q4_K, with bit j of high byte i on top of number i of group j.
fn decode_q5_k(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |block: &[u8; 176], out: &mut [f32; 256]| {
        let (d, dmin) = (half(block, 0), half(block, 2));
        for (j, out) in out.chunks_mut(32).enumerate() {
            let (scale, minimum) = scale_and_minimum(&block[4..16], j);
            let (d, m) = (d * scale, dmin * minimum);
            for (i, x) in out.iter_mut().enumerate() {
                let high = (block[16 + i] >> j & 1) << 4;
                let low = block[48 + j / 2 * 32 + i] >> (j % 2 * 4) & 15;
                *x = d * f32::from(high | low) - m;
            }
        }
    });
}

/// low nibbles(128) high pairs of bits(64) signed scales(16) d(2): sixteen groups of 16, `d * scale * (q - 32)`. Each
/// half of the block has 64 bytes of nibbles and 32 of pairs: its quarter k takes nibbles `k % 2 * 32..`, low ones for
/// k < 2 and high ones after, and pair k of each byte.
fn decode_q6_k(bytes: &[u8], out: &mut [f32]) {
    each_block(bytes, out, |block: &[u8; 210], out: &mut [f32; 256]| {
        let d = half(block, 208);
        for (i, x) in out.iter_mut().enumerate() {
            let (part, quarter, at) = (i / 128, i % 128 / 32, i % 32);
            let low = block[part * 64 + quarter % 2 * 32 + at] >> (quarter / 2 * 4) & 15;
            let high = (block[128 + part * 32 + at] >> (quarter * 2) & 3) << 4;
            let scale = f32::from(block[192 + i / 16] as i8);
            *x = d * scale * (f32::from(high | low) - 32.0);
        }
    });
}
