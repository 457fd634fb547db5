//! cast: the same numbers in another type, rounded to nearest. The contract is in kernels/engine.h.

use std::ffi::c_void;

use half::bf16;

use super::launcher::{elements, elements_mut, run, with_dtype};
use super::simd::{Real, Scalar, convert};
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
                    engine_dtype::ENGINE_F32 => convert(elements_mut(to, n as usize), from, to_f32),
                    engine_dtype::ENGINE_F64 => convert(elements_mut(to, n as usize), from, to_f64),
                    engine_dtype::ENGINE_BF16 => convert(elements_mut(to, n as usize), from, to_bf16),
                }
            }
        })
    })
}

#[inline(always)]
fn to_f64<T: Scalar>(x: T) -> f64 {
    x.wide().to_f64()
}

#[inline(always)]
fn to_f32<T: Scalar>(x: T) -> f32 {
    to_f64(x) as f32
}

/// One rounding: f64 must not pass through the nearest f32, which may be a tie where the number itself is none.
#[inline(always)]
fn to_bf16<T: Scalar>(x: T) -> bf16 {
    let wide = to_f64(x);
    let near = wide as f32;
    let inexact = size_of::<T>() == size_of::<f64>() && f64::from(near) != wide && !wide.is_nan();
    bf16::narrow(if inexact { between(wide, near) } else { near })
}

/// An f32 on the same side as `wide` of every tie of bf16: the f32 below it in size, made odd. `near` is the nearest.
fn between(wide: f64, near: f32) -> f32 {
    let larger = f64::from(near).abs() > wide.abs();
    f32::from_bits((near.to_bits() - u32::from(larger)) | 1)
}
