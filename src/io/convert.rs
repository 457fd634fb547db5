//! How numbers are stored in files of weights: f32 from them, and into them.

use half::{bf16, f16};

/// Elements converted by one task; a multiple of every block size.
pub(super) const CHUNK: usize = 1 << 16;

/// How numbers are stored: in blocks of so many elements and bytes.
#[derive(Clone, Copy)]
pub(super) struct Encoding {
    /// Elements of a block; divides 256.
    pub elements: usize,
    /// Bytes of a block.
    pub bytes: usize,
    /// Decodes whole blocks: `out` holds `elements` for every `bytes`.
    pub decode: fn(&[u8], &mut [f32]),
}

pub(super) const F32: Encoding = Encoding { elements: 1, bytes: 4, decode: decode_f32 };
pub(super) const F16: Encoding = Encoding { elements: 1, bytes: 2, decode: decode_f16 };
pub(super) const BF16: Encoding = Encoding { elements: 1, bytes: 2, decode: decode_bf16 };

impl Encoding {
    /// Bytes that hold `elements` whole blocks' worth of elements.
    pub fn size_of(self, elements: usize) -> usize {
        elements / self.elements * self.bytes
    }
}

/// The index of the first NaN or infinity.
pub(super) fn first_not_finite(values: &[f32]) -> Option<usize> {
    // A search stops early and so runs one element at a time; whole lanes run at memory speed.
    let clean = values.chunks(64).all(|lane| lane.iter().fold(true, |ok, x| ok & x.is_finite()));
    if clean { None } else { values.iter().position(|x| !x.is_finite()) }
}

fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    for (x, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *x = f32::from_le_bytes(*b);
    }
}

fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    for (x, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *x = f16::from_le_bytes(*b).to_f32();
    }
}

fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    for (x, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *x = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
    }
}

/// Little-endian f32.
pub(super) fn encode_f32(values: &[f32], bytes: &mut [u8]) {
    for (x, b) in values.iter().zip(bytes.as_chunks_mut::<4>().0) {
        *b = x.to_le_bytes();
    }
}

/// Rounded to nearest even.
pub(super) fn encode_f16(values: &[f32], bytes: &mut [u8]) {
    for (x, b) in values.iter().zip(bytes.as_chunks_mut::<2>().0) {
        *b = f16::from_f32(*x).to_le_bytes();
    }
}

/// Rounded to nearest even.
pub(super) fn encode_bf16(values: &[f32], bytes: &mut [u8]) {
    for (x, b) in values.iter().zip(bytes.as_chunks_mut::<2>().0) {
        *b = bf16::from_f32(*x).to_le_bytes();
    }
}
