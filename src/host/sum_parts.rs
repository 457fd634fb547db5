//! sum_parts: gradients of vectors from their parts. The contract is in kernels/engine.h.

use std::ffi::c_void;

use rayon::prelude::*;

use super::launcher::{elements, elements_mut, run};
use super::simd::{Real, add_assign};
use crate::device::bindings::{ENGINE_SUM_PARTS_COLUMNS, engine_dtype, engine_status, engine_stream};

/// Columns of one sum of squares.
const BLOCK: usize = ENGINE_SUM_PARTS_COLUMNS as usize;

pub unsafe extern "C" fn sum_parts(
    gradients: *mut c_void,
    squares: *mut c_void,
    parts: *const c_void,
    starts: *const u32,
    offsets: *const u64,
    vectors: u32,
    columns: u32,
    count: u32,
    accumulate: u32,
    dtype: engine_dtype,
    _stream: engine_stream,
) -> engine_status {
    let (vectors, columns, count) = (vectors as usize, columns as usize, count as usize);
    run(|| {
        // SAFETY: the table's contract.
        let starts = unsafe { elements::<u32>(starts.cast(), vectors + 1) };
        // SAFETY: as above.
        let offsets = unsafe { elements::<u64>(offsets.cast(), vectors) };
        let of = |vector: usize| Vector {
            offset: offsets[vector] as usize,
            columns: starts[vector] as usize..starts[vector + 1] as usize,
        };
        let vectors: Vec<Vector> = (0..vectors).map(of).collect();
        // SAFETY: as above: gradients are f64 beside f64, else f32.
        unsafe {
            match dtype {
                engine_dtype::ENGINE_F64 => {
                    add_up::<f64>((gradients, squares), parts, &vectors, (columns, count), accumulate != 0)
                }
                _ => add_up::<f32>((gradients, squares), parts, &vectors, (columns, count), accumulate != 0),
            }
        }
    })
}

struct Vector {
    /// In the flat run of gradients.
    offset: usize,
    /// Among the columns of all vectors.
    columns: std::ops::Range<usize>,
}

/// # Safety
/// The contract of the table.
unsafe fn add_up<T: Real>(
    (gradients, squares): (*mut c_void, *mut c_void),
    parts: *const c_void,
    vectors: &[Vector],
    (columns, count): (usize, usize),
    accumulate: bool,
) {
    // SAFETY: the caller's promise.
    let parts = unsafe { elements::<T>(parts, columns * count) };
    let sum = |vector: &Vector| {
        let width = vector.columns.len();
        let mut sum = vec![T::ZERO; width];
        let own = &parts[count * vector.columns.start..count * vector.columns.end];
        own.chunks_exact(width.max(1)).for_each(|part| add_assign(&mut sum, part));
        sum
    };
    let sums: Vec<Vec<T>> = vectors.par_iter().map(sum).collect();
    let mut squares_of: Vec<T> = Vec::new();
    for (vector, sum) in vectors.iter().zip(sums) {
        let to = gradients.cast::<T>().wrapping_add(vector.offset);
        // SAFETY: as above: the vector's part of the flat run.
        let to = unsafe { elements_mut::<T>(to.cast(), sum.len()) };
        match accumulate {
            true => add_assign(to, &sum),
            false => to.copy_from_slice(&sum),
        }
        if !squares.is_null() {
            squares_of.extend(to.iter().map(|&g| g * g));
        }
    }
    if !squares.is_null() {
        // SAFETY: as above: a number for each block of columns.
        let squares = unsafe { elements_mut::<T>(squares, columns.div_ceil(BLOCK)) };
        let sum = |block: &[T]| block.iter().fold(T::ZERO, |sum, &square| sum + square);
        squares.iter_mut().zip(squares_of.chunks(BLOCK)).for_each(|(to, block)| *to = sum(block));
    }
}
