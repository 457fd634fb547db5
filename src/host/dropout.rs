//! dropout: elements that are kept, scaled, and zeros. The contract is in kernels/engine.h.

use std::ffi::c_void;

use rayon::prelude::*;

use super::launcher::{elements, elements_mut, run, with_dtype};
use super::simd::{BLOCK, Real, Scalar, vectorized};
use crate::device::bindings::{engine_dtype, engine_status, engine_stream};

pub unsafe extern "C" fn dropout(
    y: *mut c_void,
    x: *const c_void,
    key: *const u32,
    n: u64,
    product: u32,
    p: f64,
    dtype: engine_dtype,
    _stream: engine_stream,
) -> engine_status {
    let n = n as usize;
    run(|| {
        // SAFETY: the table's contract.
        let mask = Mask::new(unsafe { elements::<u32>(key.cast(), 2) }, product, p);
        with_dtype!(dtype, T => {
            if y.cast_const() != x {
                // SAFETY: as above: n elements each.
                unsafe { elements_mut::<T>(y, n).copy_from_slice(elements::<T>(x, n)) };
            }
            // SAFETY: as above.
            drop_in(unsafe { elements_mut::<T>(y, n) }, &mask, 1.0 / (1.0 - p));
        })
    })
}

fn drop_in<T: Scalar>(y: &mut [T], mask: &Mask, scale: f64) {
    let scale = T::Acc::from_f64(scale);
    y.par_chunks_mut(BLOCK).enumerate().for_each(|(block, y)| {
        vectorized!({
            for (i, y) in y.iter_mut().enumerate() {
                let kept = mask.keeps((block * BLOCK + i) as u64);
                *y = T::narrow(if kept { y.wide() * scale } else { T::Acc::ZERO });
            }
        });
    });
}

/// Which elements are kept: as in kernels/dropout.cu, to the bit.
struct Mask {
    first: u32,
    second: u32,
    threshold: u32,
}

impl Mask {
    fn new(key: &[u32], product: u32, p: f64) -> Self {
        let first = mix(key[0].wrapping_add(product.wrapping_mul(0x9e37_79b9)));
        Self { first, second: mix(key[1] ^ first), threshold: (p * 4_294_967_296.0) as u32 }
    }

    #[inline(always)]
    fn keeps(&self, i: u64) -> bool {
        let high = ((i >> 32) as u32).wrapping_mul(0x9e37_79b9);
        mix(mix(i as u32 ^ self.first).wrapping_add(high).wrapping_add(self.second)) >= self.threshold
    }
}

/// A bijection of 32 bits, each of which changes about half of the others.
#[inline(always)]
fn mix(h: u32) -> u32 {
    let h = (h ^ h >> 16).wrapping_mul(0x7feb_352d);
    let h = (h ^ h >> 15).wrapping_mul(0x846c_a68b);
    h ^ h >> 16
}
