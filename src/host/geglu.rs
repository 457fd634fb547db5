//! geglu: y = gelu_tanh(gate) * up. The contract is in kernels/engine.h.

use std::ffi::c_void;

use super::launcher::{elements, elements_mut, run, with_dtype};
use super::simd::{Real, Scalar, for_each_row};
use crate::device::bindings::{engine_dtype, engine_status, engine_stream};

const C: f64 = 0.797_884_560_802_865_4; // sqrt(2 / pi)
const A: f64 = 0.044_715;

pub unsafe extern "C" fn geglu_forward(
    y: *mut c_void,
    x: *const c_void,
    n: u32,
    f: u32,
    dtype: engine_dtype,
    _stream: engine_stream,
) -> engine_status {
    let (n, f) = (n as usize, f as usize);
    run(|| {
        with_dtype!(dtype, T => {
            // SAFETY: the table's contract.
            let (y, x) = unsafe { (elements_mut::<T>(y, n * f), elements::<T>(x, n * 2 * f)) };
            forward(y, x, f);
        })
    })
}

pub unsafe extern "C" fn geglu_backward(
    dx: *mut c_void,
    dy: *const c_void,
    x: *const c_void,
    n: u32,
    f: u32,
    dtype: engine_dtype,
    _stream: engine_stream,
) -> engine_status {
    let (n, f) = (n as usize, f as usize);
    run(|| {
        with_dtype!(dtype, T => {
            // SAFETY: the table's contract.
            let (dx, x) = unsafe { (elements_mut::<T>(dx, n * 2 * f), elements::<T>(x, n * 2 * f)) };
            // SAFETY: as above.
            backward(dx, unsafe { elements::<T>(dy, n * f) }, x, f);
        })
    })
}

/// tanh(c * (g + a g^3))
#[inline(always)]
fn inner_tanh<R: Real>(g: R) -> R {
    (R::from_f64(C) * (g + R::from_f64(A) * g * g * g)).tanh()
}

fn forward<T: Scalar>(y: &mut [T], x: &[T], f: usize) {
    let (half, one) = (T::Acc::from_f64(0.5), T::Acc::ONE);
    for_each_row(
        y,
        f,
        #[inline(always)]
        |i, y| {
            let (gate, up) = x[i * 2 * f..][..2 * f].split_at(f);
            for j in 0..f {
                let g = gate[j].wide();
                y[j] = T::narrow(half * g * (one + inner_tanh(g)) * up[j].wide());
            }
        },
    );
}

fn backward<T: Scalar>(dx: &mut [T], dy: &[T], x: &[T], f: usize) {
    let (half, one) = (T::Acc::from_f64(0.5), T::Acc::ONE);
    let (c, a3) = (T::Acc::from_f64(C), T::Acc::from_f64(3.0 * A));
    for_each_row(
        dx,
        2 * f,
        #[inline(always)]
        |i, dx| {
            let (gate, up) = x[i * 2 * f..][..2 * f].split_at(f);
            let (dgate, dup) = dx.split_at_mut(f);
            let dy = &dy[i * f..][..f];
            for j in 0..f {
                let (g, dy) = (gate[j].wide(), dy[j].wide());
                let t = inner_tanh(g);
                let slope = half * (one + t) + half * g * (one - t * t) * c * (one + a3 * g * g);
                dgate[j] = T::narrow(dy * up[j].wide() * slope);
                dup[j] = T::narrow(dy * half * g * (one + t));
            }
        },
    );
}
