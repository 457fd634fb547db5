//! Matrix products on the CPU, as a driver is asked for them: f32 and f64 by the `gemm` crate; bf16 widened in blocks,
//! multiplied in f32, and rounded once.

use std::ffi::c_void;

use half::bf16;

use super::gemm::{Matrix, MatrixMut, Store, Threads, gemm};
use super::simd::{Scalar, convert};
use super::table::{elements, elements_mut};
use crate::device::DType;
use crate::device::driver::{Operand, Product};

/// Most rows, columns and terms of a block of a bf16 product: what is widened at once stays small beside the matrices.
const BLOCK: usize = 4096;

/// # Safety
/// The matrices lie in the host's memory as `product` says.
pub unsafe fn multiply(product: &Product) {
    // SAFETY: the caller's promise.
    unsafe {
        match (product.dtype, product.c_dtype) {
            (DType::F32, DType::F32) => plain::<f32>(product),
            (DType::F64, DType::F64) => plain::<f64>(product),
            (DType::Bf16, DType::F32) => in_blocks::<f32>(product),
            (DType::Bf16, DType::Bf16) => in_blocks::<bf16>(product),
            other => panic!("a product of {other:?}"),
        }
    }
}

fn store(product: &Product) -> Store {
    if product.accumulate { Store::Accumulate } else { Store::Write }
}

/// # Safety
/// See [`multiply`]; all three are of type T.
unsafe fn plain<T: super::gemm::Product>(product: &Product) {
    let Product { m, n, k, .. } = *product;
    // SAFETY: the caller's promise.
    let (a, b) = unsafe { (matrix::<T>(product.a, m, k), matrix::<T>(product.b, k, n)) };
    // SAFETY: as above: rows of c lie n apart.
    let c = unsafe { elements_mut::<T>(product.c, m * n) };
    gemm(MatrixMut::new(c, m, n), store(product), T::ONE, a, b, Threads::All);
}

/// The (rows, cols) operand as it lies in memory.
///
/// # Safety
/// It lies there, of type T.
unsafe fn matrix<'a, T>(operand: Operand, rows: usize, cols: usize) -> Matrix<'a, T> {
    let (outer, inner) = if operand.transposed { (cols, rows) } else { (rows, cols) };
    let len = if outer == 0 { 0 } else { (outer - 1) * operand.stride + inner };
    // SAFETY: the caller's promise.
    let data = unsafe { elements::<T>(operand.address, len) };
    let stored = Matrix::strided(data, outer, inner, operand.stride);
    if operand.transposed { stored.t() } else { stored }
}

/// A product of bf16 into C, block by block.
///
/// # Safety
/// See [`multiply`].
unsafe fn in_blocks<C: Scalar<Acc = f32>>(product: &Product) {
    let Product { m, n, k, accumulate, .. } = *product;
    let mut sums = vec![0.0f32; BLOCK.min(m) * BLOCK.min(n)];
    for rows in blocks(m) {
        for cols in blocks(n) {
            let (rows, height, width) = (rows.clone(), rows.len(), cols.len());
            let sums = &mut sums[..height * width];
            sums.fill(0.0);
            for terms in blocks(k) {
                // SAFETY: the caller's promise.
                let a = unsafe { widened(product.a, rows.clone(), terms.clone()) };
                // SAFETY: as above.
                let b = unsafe { widened(product.b, terms.clone(), cols.clone()) };
                let (a, b) = (a.matrix(), b.matrix());
                gemm(MatrixMut::new(sums, height, width), Store::Accumulate, 1.0, a, b, Threads::All);
            }
            for (row, sums) in rows.zip(sums.chunks_exact(width)) {
                let first = product.c.cast::<C>().wrapping_add(row * n + cols.start).cast::<c_void>();
                // SAFETY: as above: a part of a row of c.
                let c = unsafe { elements_mut::<C>(first, width) };
                let before = |c: C| if accumulate { c.wide() } else { 0.0 };
                c.iter_mut().zip(sums).for_each(|(c, sum)| *c = C::narrow(before(*c) + *sum));
            }
        }
    }
}

fn blocks(n: usize) -> impl Iterator<Item = std::ops::Range<usize>> + Clone {
    (0..n).step_by(BLOCK).map(move |first| first..(first + BLOCK).min(n))
}

/// A block of an operand in f32, stored as the operand is.
struct Widened {
    data: Vec<f32>,
    outer: usize,
    inner: usize,
    transposed: bool,
}

impl Widened {
    fn matrix(&self) -> Matrix<'_, f32> {
        let stored = Matrix::new(&self.data[..], self.outer, self.inner);
        if self.transposed { stored.t() } else { stored }
    }
}

/// # Safety
/// The operand lies in memory, of type bf16, and holds these rows and columns.
unsafe fn widened(operand: Operand, rows: std::ops::Range<usize>, cols: std::ops::Range<usize>) -> Widened {
    let (outer, inner) = if operand.transposed { (cols, rows) } else { (rows, cols) };
    let mut data = vec![0.0; outer.len() * inner.len()];
    let at = |row: usize| operand.address.cast::<bf16>().wrapping_add(row * operand.stride + inner.start);
    if operand.stride == inner.len() {
        // SAFETY: the caller's promise: whole rows, one after the other.
        let stored = unsafe { elements(at(outer.start).cast(), data.len()) };
        convert(&mut data, stored, bf16::wide);
    } else {
        for (row, data) in outer.clone().zip(data.chunks_exact_mut(inner.len())) {
            // SAFETY: as above.
            convert(data, unsafe { elements(at(row).cast(), inner.len()) }, bf16::wide);
        }
    }
    Widened { data, outer: outer.len(), inner: inner.len(), transposed: operand.transposed }
}
