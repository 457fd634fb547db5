//! split_weights, join_weights: master weights to and from a copy in bf16 and what it leaves out. The contract is in
//! kernels/engine.h, the way in kernels/halves.cuh; both are the same to the bit.

use std::ffi::c_void;

use half::bf16;
use rayon::prelude::*;

use super::launcher::{elements, elements_mut, run};
use super::simd::{BLOCK, vectorized};
use crate::device::bindings::{engine_status, engine_stream};

pub unsafe extern "C" fn split_weights(
    copy: *mut c_void,
    lower: *mut c_void,
    from: *const c_void,
    n: u64,
    step: u64,
    _stream: engine_stream,
) -> engine_status {
    let n = n as usize;
    run(|| {
        // SAFETY: the table's contract.
        let (copy, lower) = unsafe { (elements_mut::<bf16>(copy, n), elements_mut::<u16>(lower, n)) };
        // SAFETY: as above.
        let from = unsafe { elements::<f32>(from, n) };
        let halves = copy.par_chunks_mut(BLOCK).zip(lower.par_chunks_mut(BLOCK));
        halves.zip(from.par_chunks(BLOCK)).enumerate().for_each(|(block, ((copy, lower), from))| {
            vectorized!(split(copy, lower, from, block * BLOCK, step as u32));
        });
    })
}

pub unsafe extern "C" fn join_weights(
    to: *mut c_void,
    copy: *const c_void,
    lower: *const c_void,
    n: u64,
    step: u64,
    _stream: engine_stream,
) -> engine_status {
    let n = n as usize;
    run(|| {
        // SAFETY: the table's contract.
        let (copy, lower) = unsafe { (elements::<bf16>(copy, n), elements::<u16>(lower, n)) };
        // SAFETY: as above.
        let to = unsafe { elements_mut::<f32>(to, n) };
        let halves = copy.par_chunks(BLOCK).zip(lower.par_chunks(BLOCK));
        to.par_chunks_mut(BLOCK).zip(halves).enumerate().for_each(|(block, (to, (copy, lower)))| {
            vectorized!(join(to, copy, lower, block * BLOCK, step as u32));
        });
    })
}

/// The halves of weights, which have these indices from `first` on, by update `step`; 0: none yet.
#[inline(always)]
fn split(copy: &mut [bf16], lower: &mut [u16], from: &[f32], first: usize, step: u32) {
    let n = from.len();
    let (copy, lower) = (&mut copy[..n], &mut lower[..n]);
    let rounding = Rounding::new(first as u64, step);
    for i in 0..n {
        (copy[i], lower[i]) = rounding.split(from[i], i);
    }
}

/// Weights again from halves that [`split`] has made with the same numbers.
#[inline(always)]
fn join(to: &mut [f32], copy: &[bf16], lower: &[u16], first: usize, step: u32) {
    let n = to.len();
    let (copy, lower) = (&copy[..n], &lower[..n]);
    let rounding = Rounding::new(first as u64, step);
    for i in 0..n {
        to[i] = rounding.join(copy[i], lower[i], i);
    }
}

/// What is added to weights' bits before the lower half is cut off.
pub(super) struct Rounding {
    step: u32,
    /// Lower half of the first index.
    first: u32,
    /// Of the upper half of the first index, and of the next one, which the lower half may reach.
    seeds: [u32; 2],
}

impl Rounding {
    /// Of weights that have these indices from `first` on, by update `step`; 0: none yet.
    pub fn new(first: u64, step: u32) -> Self {
        let high = (first >> 32) as u32;
        let seed = |high: u32| high.wrapping_mul(0x9e37_79b9) ^ step.wrapping_mul(0x85eb_ca6b);
        Self { step, first: first as u32, seeds: [seed(high), seed(high.wrapping_add(1))] }
    }

    /// For the weight i after the first one, i below 2^32.
    #[inline(always)]
    fn of(&self, i: usize) -> u32 {
        if self.step == 0 {
            return 0x7fff;
        }
        let low = self.first.wrapping_add(i as u32);
        let mut h = low ^ if low < self.first { self.seeds[1] } else { self.seeds[0] };
        h = (h ^ h >> 16).wrapping_mul(0x7feb_352d);
        h = (h ^ h >> 15).wrapping_mul(0x846c_a68b);
        h >> 16
    }

    /// The halves of weight i after the first one. No branch and no call: loops over it are in vectors.
    #[inline(always)]
    pub fn split(&self, weight: f32, i: usize) -> (bf16, u16) {
        let bits = weight.to_bits();
        // Infinities and NaN; a NaN stays one when its lower half is cut off.
        let special = bits & 0x7f80_0000 == 0x7f80_0000;
        let nan = bits & 0x7fff_ffff > 0x7f80_0000;
        // Of two weights that a tie rounds to the same copy, the one below goes a little up.
        let tie = self.step == 0 && bits & 0x1_ffff == 0x1_8000;
        let finite = bits.wrapping_add(u32::from(tie));
        let rounded = finite.wrapping_add(self.of(i)) >> 16;
        let cut = bits >> 16 | if nan { 0x40 } else { 0 };
        (bf16::from_bits(if special { cut } else { rounded } as u16), if special { 0 } else { finite as u16 })
    }

    /// The weight again from halves that [`Rounding::split`] has made with the same numbers.
    #[inline(always)]
    pub fn join(&self, copy: bf16, lower: u16, i: usize) -> f32 {
        let low = u32::from(lower);
        let carry = (low + self.of(i)) >> 16;
        f32::from_bits((u32::from(copy.to_bits()).wrapping_sub(carry)) << 16 | low)
    }
}
