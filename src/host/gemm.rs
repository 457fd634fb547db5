//! Matrix products on the CPU: a safe face for the `gemm` crate's f32 and f64 kernels.

use gemm_common::Parallelism;

use crate::host::simd::Real;

/// A read-only matrix: element (r, c) is `data[r * row_stride + c * col_stride]`.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    pub data: &'a [T],
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// A dense row-major matrix.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Rows of `cols` elements that start `row_stride` apart.
    pub fn strided(data: &'a [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose: no data moves.
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    pub(super) fn check(&self) {
        if self.rows > 0 && self.cols > 0 {
            let last = (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride;
            assert!(last < self.data.len(), "matrix ({}, {}) exceeds its data", self.rows, self.cols);
        }
    }
}

/// A writable row-major matrix whose rows start `row_stride` apart.
pub struct MatrixMut<'a, T> {
    pub data: &'a mut [T],
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
}

impl<'a, T> MatrixMut<'a, T> {
    /// A dense row-major matrix.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Rows of `cols` elements that start `row_stride` apart.
    pub fn strided(data: &'a mut [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        Self { data, rows, cols, row_stride }
    }
}

/// Whether a product overwrites its output or adds to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// c = alpha * a b
    Write,
    /// c += alpha * a b
    Accumulate,
}

/// Whether a product uses all cores or runs inside a task that already has its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    All,
    One,
}

/// c (m, n) = or += alpha * a (m, k) b (k, n).
///
/// # Panics
/// When the shapes do not fit: a mistake of the calling op.
pub fn gemm<T: Product>(
    c: MatrixMut<'_, T>,
    store: Store,
    alpha: T,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    threads: Threads,
) {
    assert!(a.rows == c.rows && b.cols == c.cols && a.cols == b.rows, "gemm shapes");
    if c.rows == 0 || c.cols == 0 {
        return;
    }
    a.check();
    b.check();
    assert!((c.rows - 1) * c.row_stride + c.cols <= c.data.len() && c.cols <= c.row_stride.max(c.cols), "gemm output");
    assert!(c.rows == 1 || c.row_stride >= c.cols, "gemm output rows overlap");
    let threads = match threads {
        Threads::All => Parallelism::Rayon(rayon::current_num_threads()),
        Threads::One => Parallelism::None,
    };
    // SAFETY: the three views lie inside their slices (checked above), c is borrowed mutably and so overlaps neither.
    unsafe { T::gemm(c, store == Store::Accumulate, alpha, a, b, threads) }
}

/// A number type that has a matrix product.
pub trait Product: Real {
    /// # Safety
    /// The views must lie inside their data.
    unsafe fn gemm(
        c: MatrixMut<'_, Self>,
        accumulate: bool,
        alpha: Self,
        a: Matrix<'_, Self>,
        b: Matrix<'_, Self>,
        threads: Parallelism,
    );
}

macro_rules! impl_product {
    ($t:ty, $kernel:expr) => {
        impl Product for $t {
            unsafe fn gemm(
                c: MatrixMut<'_, $t>,
                accumulate: bool,
                alpha: $t,
                a: Matrix<'_, $t>,
                b: Matrix<'_, $t>,
                threads: Parallelism,
            ) {
                let kernel = $kernel;
                // The kernels want a column-major output: c^T (n, m) = b^T a^T. They compute dst = 1 * dst + alpha * lhs rhs.
                // SAFETY: the caller's promise.
                unsafe {
                    kernel(
                        c.cols,
                        c.rows,
                        a.cols,
                        c.data.as_mut_ptr(),
                        c.row_stride as isize,
                        1,
                        accumulate,
                        b.data.as_ptr(),
                        b.row_stride as isize,
                        b.col_stride as isize,
                        a.data.as_ptr(),
                        a.row_stride as isize,
                        a.col_stride as isize,
                        1.0,
                        alpha,
                        false,
                        false,
                        false,
                        threads,
                    )
                }
            }
        }
    };
}

impl_product!(f32, gemm_f32::gemm::f32::get_gemm_fn());
impl_product!(f64, gemm_f64::gemm::f64::get_gemm_fn());
