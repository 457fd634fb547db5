//! weight_gradients: gradients of several weights and the sums of their squares. The contract is in kernels/engine.h.

use std::ffi::c_void;

use rayon::prelude::*;

use super::launcher::{elements, elements_mut, run};
use super::products;
use super::simd::{Real, sum_of, vectorized};
use crate::device::DType;
use crate::device::bindings::{
    ENGINE_GRADIENT_TILE, engine_dtype, engine_status, engine_stream, engine_weight_gradient,
};
use crate::device::driver::{Operand, Product};

pub unsafe extern "C" fn weight_gradients(
    squares: *mut c_void,
    gradients: *const engine_weight_gradient,
    count: u32,
    dtype: engine_dtype,
    _stream: engine_stream,
) -> engine_status {
    run(|| {
        // SAFETY: the table's contract.
        let gradients = unsafe { elements::<engine_weight_gradient>(gradients.cast(), count as usize) };
        // SAFETY: as above.
        unsafe {
            match dtype {
                engine_dtype::ENGINE_F64 => all::<f64>(squares, gradients, DType::F64),
                engine_dtype::ENGINE_F32 => all::<f32>(squares, gradients, DType::F32),
                engine_dtype::ENGINE_BF16 => all::<f32>(squares, gradients, DType::Bf16),
            }
        }
    })
}

/// # Safety
/// The contract of the table, with sums in A.
unsafe fn all<A: Real>(squares: *mut c_void, gradients: &[engine_weight_gradient], dtype: DType) {
    let mut at = squares.cast::<A>();
    for of in gradients {
        let (n, o, i) = (of.n as usize, of.o as usize, of.i as usize);
        let (a, b) = (Operand::new(of.dy, o).t(), Operand::new(of.x, i));
        let (c_dtype, accumulate) = (dtype.accumulator(), of.accumulate != 0);
        let product = Product { c: of.dweight, a, b, m: o, n: i, k: n, dtype, c_dtype, accumulate };
        // SAFETY: the caller's promise.
        unsafe { products::multiply(&product) };
        if squares.is_null() {
            continue;
        }
        // SAFETY: as above: the product has written them.
        let dweight = unsafe { elements::<A>(of.dweight, o * i) };
        let tile = ENGINE_GRADIENT_TILE as usize;
        let across = i.div_ceil(tile);
        let tiles = o.div_ceil(tile) * across;
        // SAFETY: as above: a number for each tile.
        let squares = unsafe { elements_mut::<A>(at.cast(), tiles) };
        squares.par_iter_mut().enumerate().for_each(|(number, square)| {
            let (row, column) = (number / across * tile, number % across * tile);
            let end = (column + tile).min(i);
            *square = A::ZERO;
            vectorized!(for r in row..(row + tile).min(o) {
                let part = &dweight[r * i + column..r * i + end];
                *square += sum_of([part], |[x]| x * x);
            });
        });
        at = at.wrapping_add(tiles);
    }
}
