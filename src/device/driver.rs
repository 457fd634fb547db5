//! What a device that runs `kernels/` must be able to do. [`cuda`](super::cuda) does it through the CUDA driver and
//! cuBLASLt, [`emulated`](super::emulated) on the host; everything above this trait is the same code for both.
//!
//! A device has one stream: whatever is queued runs in order, and only [`Driver::download`] waits for it.

use std::ffi::c_void;

use super::bindings::{engine_dtype, engine_stream};
use super::kernels::Kernels;
use crate::device::DType;
use crate::error::Result;

/// A device's memory, stream, matrix products and graphs.
///
/// # Safety of the unsafe functions
/// Addresses are memory of this device, as long as the function's byte counts and matrices say, until the stream has
/// passed the call.
pub trait Driver {
    /// The launchers.
    fn kernels(&self) -> Kernels;

    /// The stream that launchers queue on.
    fn stream(&self) -> engine_stream;

    /// What the device is, for people.
    fn name(&self) -> String;

    /// Memory, aligned to 256 bytes. An error when there is not enough.
    fn allocate(&self, bytes: usize) -> Result<*mut c_void>;

    /// # Safety
    /// Allocated here with this size, and not used by what is queued from now on.
    unsafe fn free(&self, address: *mut c_void, bytes: usize);

    /// Whether freed memory is worth keeping for the next tensor of its size. The emulator gives it back, so that a
    /// tensor has guard bands of its own and begins as NaN.
    fn keeps_freed_memory(&self) -> bool;

    /// Queues a copy from the host, which may change `from` when this returns.
    ///
    /// # Safety
    /// See [`Driver`].
    unsafe fn upload(&self, to: *mut c_void, from: &[u8]) -> Result<()>;

    /// Copies to the host, after all that is queued.
    ///
    /// # Safety
    /// See [`Driver`].
    unsafe fn download(&self, to: &mut [u8], from: *const c_void) -> Result<()>;

    /// Queues zeros.
    ///
    /// # Safety
    /// See [`Driver`].
    unsafe fn zero(&self, at: *mut c_void, bytes: usize) -> Result<()>;

    /// Queues a matrix product.
    ///
    /// # Safety
    /// See [`Driver`].
    unsafe fn product(&self, product: &Product) -> Result<()>;

    /// From now on what is queued is kept in a graph and not run. Uploads and downloads must not occur.
    fn begin_capture(&self) -> Result<()>;

    /// The graph of what was queued since [`Driver::begin_capture`].
    fn end_capture(&self) -> Result<Box<dyn Graph>>;
}

/// Work that was captured once and can be queued again as a whole, with the addresses it had.
pub trait Graph {
    /// Queues it.
    fn launch(&self) -> Result<()>;
}

/// A matrix of a product: element (r, c) lies at `r * stride + c`, or at `c * stride + r` when `transposed`.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    pub address: *const c_void,
    pub stride: usize,
    pub transposed: bool,
}

impl Operand {
    /// A dense row-major matrix of `cols` columns.
    pub fn new(address: *const c_void, cols: usize) -> Self {
        Self { address, stride: cols, transposed: false }
    }

    /// The transpose: no data moves.
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }
}

/// `c (m, n) = a (m, k) b (k, n)`, or `+=`, with sums in f32.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub c: *mut c_void,
    pub a: Operand,
    pub b: Operand,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// Of a and b.
    pub dtype: DType,
    /// Of c; rows of c lie `n` apart.
    pub c_dtype: DType,
    /// `+=`
    pub accumulate: bool,
}

/// The table's name for a dtype.
///
/// # Panics
/// For a type that no kernel computes in: a mistake of the calling op.
pub fn engine_dtype(dtype: DType) -> engine_dtype {
    match dtype {
        DType::F32 => engine_dtype::ENGINE_F32,
        DType::Bf16 => engine_dtype::ENGINE_BF16,
        DType::F64 | DType::U32 => panic!("no kernel computes in {dtype:?}"),
    }
}
