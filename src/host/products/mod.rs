//! Matrix products on the CPU, as a driver is asked for them.
//!
//! | type | product | by |
//! |---|---|---|
//! | bf16, f32 | few rows (64) against weights as they lie | `skinny` |
//! | bf16, f32 | all others | `blocked` |
//! | f64 | all | the `gemm` crate |
//!
//! Both of ours are written once: skinny products over a vector unit (`unit`), blocked ones over what computes tiles
//! (`tiles`): a vector unit, or one that multiplies small matrices. One of each is a [`choice::Kernel`]: which one multiplies is
//! decided by a measurement when the first product is asked for. How blocks and tiles were chosen is at the head of each file.
//! `cargo bench --bench ops -- linear_products` prints what share of the registers' own rate ([`peak`]) is reached.

use super::gemm::{Matrix, MatrixMut, Store, gemm};
use super::launcher::{elements, elements_mut};
use crate::device::driver::{Operand, Product};
use crate::device::{DType, Element};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocked;
mod buffer;
pub mod choice;
mod compiled;
mod dots;
mod four;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
pub mod peak;
mod portable;
mod portable_squares;
mod prefetch;
mod skinny;
mod spin;
mod tile;
mod tiles;
mod unit;

use choice::{Kernel, with_unit};
pub use skinny::MOST_ROWS;
use skinny::Skinny;
use tiles::Tiles;

/// # Safety
/// The matrices lie in the host's memory as `product` says.
pub unsafe fn multiply(product: &Product) {
    // SAFETY: the caller's promise.
    unsafe { multiply_with(Kernel::chosen(), product) }
}

/// c (m, n) = or += a (m, k) b (k, n), with sums in A.
///
/// # Panics
/// When the shapes do not fit.
pub fn product<T: Element, C: Element>(c: &mut [C], store: Store, a: Matrix<'_, T>, b: Matrix<'_, T>) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert!(b.rows == k && c.len() == m * n, "a product of ({m}, {k}) and ({}, {n})", b.rows);
    let product = Product {
        c: c.as_mut_ptr().cast(),
        a: operand(a),
        b: operand(b),
        m,
        n,
        k,
        dtype: T::DTYPE,
        c_dtype: C::DTYPE,
        accumulate: store == Store::Accumulate,
    };
    // SAFETY: the matrices lie inside their data, which `operand` checks, and c is as long as it must be.
    unsafe { multiply(&product) };
}

fn operand<T>(matrix: Matrix<'_, T>) -> Operand {
    matrix.check();
    let Matrix { data, row_stride, col_stride, .. } = matrix;
    assert!(row_stride == 1 || col_stride == 1, "neither rows nor columns lie together");
    let transposed = col_stride != 1;
    Operand { address: data.as_ptr().cast(), stride: if transposed { col_stride } else { row_stride }, transposed }
}

/// [`multiply`] with a kernel of the caller's choice.
///
/// # Safety
/// As [`multiply`].
///
/// # Panics
/// When this machine does not have the kernel's instructions, or nothing multiplies these types.
pub unsafe fn multiply_with(kernel: Kernel, product: &Product) {
    // SAFETY: the caller's promise.
    unsafe {
        match (product.dtype, product.c_dtype) {
            (DType::F32, DType::F32) => with_unit!(kernel.in_f32(), wide(product)),
            (DType::F64, DType::F64) => in_f64(product),
            (DType::Bf16, DType::F32 | DType::Bf16) => with_unit!(kernel, narrow(product)),
            other => panic!("a product of {other:?}"),
        }
    }
}

/// Few rows against weights that lie along the terms: no operand is transposed but those.
fn is_skinny(product: &Product) -> bool {
    product.m <= MOST_ROWS && !product.a.transposed && product.b.transposed
}

fn as_skinny(product: &Product) -> Skinny {
    let &Product { c, a, b, m, n, k, c_dtype, accumulate, .. } = product;
    Skinny { m, n, k, x: a, w: b, y: c, narrow: c_dtype == DType::Bf16, accumulate }
}

/// f32.
///
/// # Safety
/// As [`multiply`].
unsafe fn wide<U: Tiles>(unit: U, product: &Product) {
    // SAFETY: the caller's promise.
    unsafe { ours::<U, true>(unit, product) };
}

/// bf16.
///
/// # Safety
/// As [`multiply`].
unsafe fn narrow<U: Tiles>(unit: U, product: &Product) {
    // SAFETY: the caller's promise.
    unsafe { ours::<U, false>(unit, product) };
}

/// # Safety
/// As [`multiply`]; WIDE: a and b are in f32, else in bf16.
unsafe fn ours<U: Tiles, const WIDE: bool>(unit: U, product: &Product) {
    // SAFETY: the caller's promise.
    unsafe {
        if is_skinny(product) {
            skinny::skinny::<U::Vectors, WIDE>(unit.vectors(), &as_skinny(product));
        } else {
            blocked::blocked::<U, WIDE>(unit, product);
        }
    }
}

/// # Safety
/// As [`multiply`].
unsafe fn in_f64(product: &Product) {
    let Product { m, n, k, .. } = *product;
    // SAFETY: the caller's promise.
    let (a, b) = unsafe { (matrix::<f64>(product.a, m, k), matrix::<f64>(product.b, k, n)) };
    // SAFETY: as above: rows of c lie n apart.
    let c = unsafe { elements_mut::<f64>(product.c, m * n) };
    let store = if product.accumulate { Store::Accumulate } else { Store::Write };
    gemm(MatrixMut::new(c, m, n), store, a, b);
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
