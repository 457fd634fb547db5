//! linear_few_rows and linear_geglu: products that do more, as the product and what follows it. The contract is in kernels/engine.h.

use std::ffi::c_void;

use super::geglu::{geglu_backward, geglu_forward};
use super::launcher::{Scratch, run};
use super::products;
use super::rmsnorm::rmsnorm_pair_forward;
use crate::device::DType;
use crate::device::bindings::{engine_dtype, engine_norm_pair, engine_status, engine_stream};
use crate::device::driver::{Operand, Product};

pub unsafe extern "C" fn linear_few_rows(
    y: *mut c_void,
    x: *const c_void,
    weight: *const c_void,
    norms: *const engine_norm_pair,
    n: u32,
    i: u32,
    o: u32,
    dtype: engine_dtype,
    stream: engine_stream,
) -> engine_status {
    // SAFETY: the table's contract.
    let (mut normed, status) = unsafe { Normed::new(x, norms, [n, i], dtype, stream) };
    if status != engine_status::ENGINE_OK {
        return status;
    }
    let (x, [n, i, o]) = (normed.address(x), [n, i, o].map(|size| size as usize));
    // SAFETY: as above.
    run(|| unsafe { multiply(y, Operand::new(x, i), Operand::new(weight, i).t(), [n, o, i], dtype) })
}

/// Rows that norms give, if there are any.
struct Normed(Option<Scratch>);

impl Normed {
    /// # Safety
    /// All is there as kernels/engine.h says.
    unsafe fn new(
        x: *const c_void,
        norms: *const engine_norm_pair,
        [n, d]: [u32; 2],
        dtype: engine_dtype,
        stream: engine_stream,
    ) -> (Self, engine_status) {
        // SAFETY: the caller's promise: norms or null.
        let Some(norms) = (unsafe { norms.as_ref() }) else { return (Self(None), engine_status::ENGINE_OK) };
        let (mut y, mut rstd) = (Scratch::new(n as usize * d as usize), Scratch::new(2 * n as usize));
        let engine_norm_pair { sum, h, weight, next_weight, eps } = *norms;
        // SAFETY: the caller's promise; y and rstd are as large as x and its rows.
        let status = unsafe {
            rmsnorm_pair_forward(sum, y.address(), rstd.address(), h, x, weight, next_weight, n, d, eps, dtype, stream)
        };
        (Self(Some(y)), status)
    }

    /// Of the rows, or of x.
    fn address(&mut self, x: *const c_void) -> *const c_void {
        self.0.as_mut().map_or(x, |rows| rows.address())
    }
}

pub unsafe extern "C" fn linear_geglu_forward(
    y: *mut c_void,
    x: *mut c_void,
    h: *const c_void,
    weight: *const c_void,
    norms: *const engine_norm_pair,
    n: u32,
    d: u32,
    f: u32,
    dtype: engine_dtype,
    stream: engine_stream,
) -> engine_status {
    let mut own = Scratch::new(if x.is_null() { n as usize * 2 * f as usize } else { 0 });
    let x = if x.is_null() { own.address() } else { x };
    // SAFETY: the table's contract; `own` is as large as x.
    unsafe {
        match linear_few_rows(x, h, weight, norms, n, d, 2 * f, dtype, stream) {
            engine_status::ENGINE_OK => geglu_forward(y, x, n, f, dtype, stream),
            bad => bad,
        }
    }
}

pub unsafe extern "C" fn linear_geglu_backward(
    dx: *mut c_void,
    y: *mut c_void,
    dz: *const c_void,
    weight: *const c_void,
    x: *const c_void,
    n: u32,
    d: u32,
    f: u32,
    dtype: engine_dtype,
    stream: engine_stream,
) -> engine_status {
    let (rows, terms, columns) = (n as usize, d as usize, f as usize);
    let mut dy = Scratch::new(rows * columns);
    let (left, right) = (Operand::new(dz, terms), Operand::new(weight, columns));
    // SAFETY: the table's contract; dy has room for its matrix.
    unsafe {
        if !y.is_null() {
            let status = geglu_forward(y, x, n, f, dtype, stream);
            if status != engine_status::ENGINE_OK {
                return status;
            }
        }
        match run(|| multiply(dy.address(), left, right, [rows, columns, terms], dtype)) {
            engine_status::ENGINE_OK => geglu_backward(dx, dy.address(), x, n, f, dtype, stream),
            bad => bad,
        }
    }
}

/// c (m, n) = a (m, k) b (k, n), in one type.
///
/// # Safety
/// The matrices lie as the operands say, and there is room for c.
unsafe fn multiply(c: *mut c_void, a: Operand, b: Operand, [m, n, k]: [usize; 3], dtype: engine_dtype) {
    let dtype = match dtype {
        engine_dtype::ENGINE_F32 => DType::F32,
        engine_dtype::ENGINE_F64 => DType::F64,
        engine_dtype::ENGINE_BF16 => DType::Bf16,
    };
    // SAFETY: the caller's promise.
    unsafe { products::multiply(&Product { c, a, b, m, n, k, dtype, c_dtype: dtype, accumulate: false }) }
}
