//! Numbers as bytes, and what they can be wrong by.

use crate::host::simd::{dot, max_of};

/// A vector v as `scale` times bytes, and bounds of norms: all of them rounded up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Quantized {
    pub scale: f32,
    /// Of v less what the bytes say.
    pub error: f32,
    /// Of what the bytes say.
    pub size: f32,
}

impl Quantized {
    /// Of v.
    pub fn norm(&self) -> f32 {
        self.error + self.size
    }
}

/// What sums of squares in f32 can be wrong by, and more.
pub(super) const ROUNDING: f32 = 1e-4;

/// Numbers that are taken at once: there are as many in lists, with zeros behind those that count.
pub(super) const LANES: usize = 16;

/// Puts `v` into bytes: numbers of -`levels` to `levels`, to each of which `offset` is added. `v` becomes its errors.
#[inline(always)]
pub(super) fn quantize(bytes: &mut [u8], v: &mut [f32], levels: i32, offset: i32) -> Quantized {
    // 1.5 * 2^23: a number that is added to it is rounded to the nearest integer, which is in the lowest bits then.
    const NEAREST: f32 = 12_582_912.0;
    let offset = offset as f32;
    let mut largest = [0.0f32; LANES];
    for v in v.as_chunks::<LANES>().0 {
        for (largest, v) in largest.iter_mut().zip(v) {
            *largest = if v.abs() > *largest { v.abs() } else { *largest };
        }
    }
    let (largest, levels) = (max_of(&largest), levels as f32);
    let (scale, inverse) = (largest / levels, levels / largest);
    // Of zeros, and of numbers next to none, nothing is kept: they are their own error.
    let (scale, inverse) = if inverse.is_finite() && scale > 0.0 { (scale, inverse) } else { (0.0, 0.0) };
    let mut squares = [0.0; LANES];
    for (bytes, v) in bytes.as_chunks_mut::<LANES>().0.iter_mut().zip(v.as_chunks_mut::<LANES>().0) {
        for ((byte, v), squares) in bytes.iter_mut().zip(v).zip(&mut squares) {
            let nearest = *v * inverse + NEAREST;
            let integer = nearest - NEAREST;
            *byte = (nearest + offset).to_bits() as u8;
            *v -= integer * scale;
            *squares += integer * integer;
        }
    }
    let norm_of = |squares: f32| squares.sqrt() * (1.0 + ROUNDING);
    let size = scale * norm_of(squares.into_iter().sum());
    // The product above rounds, too: by a part of 2^-24 of each number at most.
    Quantized { scale, error: norm_of(dot(v, v)) + size * ROUNDING * 1e-2, size }
}
