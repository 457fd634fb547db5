//! round_blocks: weights as a file of blocks would give them back. The contract is in kernels/engine.h.

use std::ffi::c_void;

use half::{bf16, f16};
use rayon::prelude::*;

use super::launcher::{elements, elements_mut, run};
use super::simd::{BLOCK, Scalar, vectorized};
use crate::device::bindings::{ENGINE_FORMAT_BLOCK, engine_dtype, engine_format, engine_status, engine_stream};

const NUMBERS: usize = ENGINE_FORMAT_BLOCK as usize;
// Tasks have whole blocks.
const _: () = assert!(BLOCK.is_multiple_of(NUMBERS));

pub unsafe extern "C" fn round_blocks(
    to: *mut c_void,
    from: *const c_void,
    starts: *const u64,
    _blocks: *const u64,
    formats: *const u32,
    groups: u32,
    _count: u64,
    dtype: engine_dtype,
    _stream: engine_stream,
) -> engine_status {
    let groups = groups as usize;
    run(|| {
        // SAFETY: the table's contract.
        let starts = unsafe { elements::<u64>(starts.cast(), groups + 1) };
        // SAFETY: as above.
        let formats = unsafe { elements::<u32>(formats.cast(), groups) };
        let n = starts[groups] as usize;
        // SAFETY: as above.
        let from = unsafe { elements::<f32>(from, n) };
        // SAFETY: as above; each arm has the type that `dtype` names.
        unsafe {
            match dtype {
                engine_dtype::ENGINE_F32 => round_in(elements_mut::<f32>(to, n), from, starts, formats),
                engine_dtype::ENGINE_BF16 => round_in(elements_mut::<bf16>(to, n), from, starts, formats),
                engine_dtype::ENGINE_F64 => panic!("weights of f64 are in no file"),
            }
        }
    })
}

fn round_in<T: Scalar<Acc = f32>>(to: &mut [T], from: &[f32], starts: &[u64], formats: &[u32]) {
    let mut rest = to;
    for (bounds, &format) in starts.windows(2).zip(formats) {
        let from = &from[bounds[0] as usize..bounds[1] as usize];
        let (to, tail) = rest.split_at_mut(from.len());
        rest = tail;
        to.par_chunks_mut(BLOCK).zip(from.par_chunks(BLOCK)).for_each(|(to, from)| {
            vectorized!(match format {
                q if q == engine_format::ENGINE_FORMAT_Q8_0 as u32 => each_block(to, from, q8_0),
                q if q == engine_format::ENGINE_FORMAT_Q4_0 as u32 => each_block(to, from, q4_0),
                _ => to.iter_mut().zip(from).for_each(|(to, x)| *to = T::narrow((x + 1.0) - 1.0)),
            });
        });
    }
}

#[inline(always)]
fn each_block<T: Scalar<Acc = f32>>(to: &mut [T], from: &[f32], round: impl Fn(&mut [f32; NUMBERS])) {
    let blocks = to.as_chunks_mut::<NUMBERS>().0.iter_mut().zip(from.as_chunks::<NUMBERS>().0);
    for (to, from) in blocks {
        let mut values = *from;
        round(&mut values);
        to.iter_mut().zip(values).for_each(|(to, x)| *to = T::narrow(x));
    }
}

/// 1 / d, and 0 for a block of zeros.
#[inline(always)]
fn inverse_of(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

#[inline(always)]
fn q8_0(values: &mut [f32; NUMBERS]) {
    let d = values.iter().fold(0.0, |most: f32, x| most.max(x.abs())) / 127.0;
    let (inverse, d) = (inverse_of(d), f16::from_f32(d).to_f32());
    for x in values {
        *x = d * f32::from((*x * inverse).round() as i8);
    }
}

#[inline(always)]
fn q4_0(values: &mut [f32; NUMBERS]) {
    let most = values.iter().fold(0.0, |most: f32, x| if x.abs() > most.abs() { *x } else { most });
    let d = most / -8.0;
    let (inverse, d) = (inverse_of(d), f16::from_f32(d).to_f32());
    for x in values {
        *x = d * (f32::from(((*x * inverse + 8.5) as u8).min(15)) - 8.0);
    }
}
