//! cast: the same numbers in another type, rounded to nearest or stochastically. The contract is in kernels/engine.h.

use std::ffi::c_void;

use half::bf16;
use rayon::prelude::*;

use super::launcher::{elements, elements_mut, run, with_dtype};
use super::simd::{BLOCK, Real, Scalar, convert, vectorized};
use crate::device::bindings::{engine_dtype, engine_status, engine_stream};

pub unsafe extern "C" fn cast(
    to: *mut c_void,
    from: *const c_void,
    n: u64,
    to_dtype: engine_dtype,
    from_dtype: engine_dtype,
    _stream: engine_stream,
) -> engine_status {
    run(|| {
        with_dtype!(from_dtype, From => {
            // SAFETY: the table's contract.
            let from = unsafe { elements::<From>(from, n as usize) };
            // SAFETY: as above, and each arm has the type that `to_dtype` names.
            unsafe {
                match to_dtype {
                    engine_dtype::ENGINE_F32 => convert(elements_mut(to, n as usize), from, |x| x.wide().to_f64() as f32),
                    engine_dtype::ENGINE_F64 => convert(elements_mut(to, n as usize), from, |x| x.wide().to_f64()),
                    engine_dtype::ENGINE_BF16 => convert(elements_mut(to, n as usize), from, to_bf16),
                }
            }
        })
    })
}

/// One rounding: f64 must not pass through the nearest f32, which may be a tie where the number itself is none.
#[inline(always)]
fn to_bf16<T: Scalar>(x: T) -> bf16 {
    let wide = x.wide().to_f64();
    let near = wide as f32;
    let inexact = size_of::<T>() == size_of::<f64>() && f64::from(near) != wide && !wide.is_nan();
    bf16::narrow(if inexact { between(wide, near) } else { near })
}

/// An f32 on the same side as `wide` of every tie of bf16: the f32 below it in size, made odd. `near` is the nearest.
fn between(wide: f64, near: f32) -> f32 {
    let larger = f64::from(near).abs() > wide.abs();
    f32::from_bits((near.to_bits() - u32::from(larger)) | 1)
}

pub unsafe extern "C" fn cast_stochastic(
    to: *mut c_void,
    from: *const c_void,
    n: u64,
    step: u64,
    _stream: engine_stream,
) -> engine_status {
    run(|| {
        // SAFETY: the table's contract.
        let (to, from) = unsafe { (elements_mut::<bf16>(to, n as usize), elements::<f32>(from, n as usize)) };
        to.par_chunks_mut(BLOCK).zip(from.par_chunks(BLOCK)).enumerate().for_each(|(block, (to, from))| {
            vectorized(|| round_stochastic(to, from, block * BLOCK, step as u32));
        });
    })
}

/// Elements from `first` on, rounded up or down by numbers that follow from their index and the step.
#[inline(always)]
pub(super) fn round_stochastic<T: Real>(to: &mut [bf16], from: &[T], first: usize, step: u32) {
    for (i, (to, x)) in to.iter_mut().zip(from).enumerate() {
        let x = x.to_f64() as f32;
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(dither((first + i) as u64, step)) >> 16;
        // Infinities and NaN.
        let special = bits & 0x7f80_0000 == 0x7f80_0000;
        *to = if special { bf16::narrow(x) } else { bf16::from_bits(rounded as u16) };
    }
}

/// As in kernels/vector.cuh, to the bit.
#[inline(always)]
fn dither(index: u64, step: u32) -> u32 {
    let high = ((index >> 32) as u32).wrapping_mul(0x9e37_79b9);
    let mut h = index as u32 ^ high ^ step.wrapping_mul(0x85eb_ca6b);
    h = (h ^ h >> 16).wrapping_mul(0x7feb_352d);
    h = (h ^ h >> 15).wrapping_mul(0x846c_a68b);
    h >> 16
}
