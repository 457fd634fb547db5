//! Matrices in memory, and products of f64: a safe face for the `gemm` crate.

use gemm_common::Parallelism;

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

/// A writable dense row-major matrix.
pub struct MatrixMut<'a, T> {
    pub data: &'a mut [T],
    pub rows: usize,
    pub cols: usize,
}

impl<'a, T> MatrixMut<'a, T> {
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols }
    }
}

/// Whether a product overwrites its output or adds to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// c = a b
    Write,
    /// c += a b
    Accumulate,
}

/// c (m, n) = or += a (m, k) b (k, n).
///
/// # Panics
/// When the shapes do not fit: a mistake of the calling op.
pub fn gemm(c: MatrixMut<'_, f64>, store: Store, a: Matrix<'_, f64>, b: Matrix<'_, f64>) {
    assert!(a.rows == c.rows && b.cols == c.cols && a.cols == b.rows, "gemm shapes");
    if c.rows == 0 || c.cols == 0 {
        return;
    }
    a.check();
    b.check();
    assert!(c.rows * c.cols <= c.data.len(), "gemm output");
    let kernel = gemm_f64::gemm::f64::get_gemm_fn();
    // The kernels want a column-major output: c^T (n, m) = b^T a^T. They compute dst = 1 * dst + 1 * lhs rhs.
    // SAFETY: the three views lie inside their slices (checked above), c is borrowed mutably and so overlaps neither.
    unsafe {
        kernel(
            c.cols,
            c.rows,
            a.cols,
            c.data.as_mut_ptr(),
            c.cols as isize,
            1,
            store == Store::Accumulate,
            b.data.as_ptr(),
            b.row_stride as isize,
            b.col_stride as isize,
            a.data.as_ptr(),
            a.row_stride as isize,
            a.col_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::Rayon(rayon::current_num_threads()),
        )
    }
}
