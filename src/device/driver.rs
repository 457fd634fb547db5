//! What a device must be able to do. [`host`](crate::host) does it in Rust, [`cuda`](crate::cuda) through the CUDA driver and
//! cuBLASLt, [`emulated`](crate::emulated) with the same kernels on the host; everything above this trait is the same code
//! for all of them. Where devices differ in what suits them (tiles, chunks, graphs), the driver answers.
//!
//! A device has one stream: whatever is queued runs in order, and only [`Driver::download`] waits for it. The host and the
//! emulator run what is queued at once.

use std::ffi::c_void;

use super::bindings::{ENGINE_ATTENTION_TILE, engine_dtype, engine_stream};
use super::kernels::Kernels;
use crate::bail;
use crate::device::DType;
use crate::error::Result;

/// Rows up to which the products of a layer are bound by memory and by their launches; with more of them a library's are faster than
/// [those that are joined](Driver::joins_products), but for those around the gated unit of many rows (`linear_geglu_forward`).
pub const MOST_SMALL_ROWS: usize = 512;

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

    /// Memory, aligned to 64 bytes at least. An error when there is not enough.
    fn allocate(&self, bytes: usize) -> Result<*mut c_void>;

    /// # Safety
    /// Allocated here with this size, and not used by what is queued from now on.
    unsafe fn free(&self, address: *mut c_void, bytes: usize);

    /// Whether freed memory is worth keeping for the next tensor of its size. The emulator gives it back, so that a
    /// tensor has guard bands of its own and begins as NaN.
    fn keeps_freed_memory(&self) -> bool {
        true
    }

    /// Whether memory that [`allocate`](Self::allocate) gives is zeros.
    fn allocates_zeros(&self) -> bool {
        false
    }

    /// Whether this is the CPU: tensors can be read and written in place.
    fn is_host(&self) -> bool {
        false
    }

    /// Rows of a tile of queries and slots of a tile of keys in the lists that attention reads.
    fn attention_tile(&self) -> usize {
        ENGINE_ATTENTION_TILE as usize
    }

    /// Blocks of a large kernel that run at once. Where there are more, some can do the work of several one after the other, if
    /// that saves bytes.
    fn blocks_at_once(&self) -> usize {
        1
    }

    /// Whether some products in this type are kernels of the table, which do more than a product. Those of few rows write the gradients of all
    /// weights by one launch (`weight_gradients`); those of few rows and of many go on with what follows (`linear_geglu_forward`).
    fn joins_products(&self, dtype: DType) -> bool {
        dtype == DType::Bf16 && !self.is_host()
    }

    /// Most bytes of logits to have in memory at once. Large: products like many rows.
    fn logits_bytes(&self) -> usize {
        1 << 30
    }

    /// Whether a step can be captured and replayed. Batches are then padded to a few sizes, so that steps repeat.
    fn captures_graphs(&self) -> bool {
        true
    }

    /// Bytes that can still be allocated; None where nobody tells.
    fn free_bytes(&self) -> Option<u64> {
        None
    }

    /// Told of the memory of each tensor whose address is asked for, before the launch that is given it: for a device that keeps
    /// account of traffic.
    fn addressed(&self, _extent: Extent) {}

    /// Called after a launch with these sizes has been queued, for debugging: waits for it where the device was asked to.
    fn after_launch(&self, _op: &str, _sizes: &[(&str, u64)]) -> Result<()> {
        Ok(())
    }

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

    /// Whether there is a [`search`](Self::search) in this type.
    fn searches(&self, _dtype: DType) -> bool {
        false
    }

    /// A search for the largest products with a weight (V, D), where a device finds them without computing all. The weight stays there and does
    /// not change while the search is used.
    ///
    /// # Safety
    /// See [`Driver`]; and what is said of the weight.
    unsafe fn search(&self, _weight: *const c_void, _shape: [usize; 2], _dtype: DType) -> Option<Box<dyn Search>> {
        None
    }

    /// How products are computed where that was chosen among several ways, as text: what a run that goes on must be given to be equal
    /// to the bit. None: there is nothing to choose.
    fn choices(&self) -> Option<String> {
        None
    }

    /// From now on chooses as a device did that gave these [`choices`](Self::choices). False: they are of another kind of device, or
    /// of other libraries.
    fn choose(&self, _choices: &str) -> bool {
        false
    }

    /// What would compute products here if nothing had been [chosen](Self::choose), where that is something else, and how to have it: for
    /// people.
    fn own_choice(&self) -> Option<String> {
        None
    }

    /// From now on what is queued is kept in a graph and not run. Uploads and downloads must not occur.
    fn begin_capture(&self) -> Result<()> {
        bail!("internal: `{}` captures no graphs", self.name())
    }

    /// The graph of what was queued since [`Driver::begin_capture`].
    fn end_capture(&self) -> Result<Box<dyn Graph>> {
        bail!("internal: `{}` captures no graphs", self.name())
    }
}

/// Memory that a launch is given, and what it does there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub address: *const c_void,
    pub bytes: usize,
    pub access: Access,
}

/// What a launch does with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    /// Whatever was there is not looked at.
    Write,
    /// Reads what is there and writes something else in its place.
    Update,
    /// Reads what is there, and writes so many bytes of it.
    UpdatePart(usize),
}

/// Finds which rows of a weight have the largest products with other rows.
pub trait Search {
    /// Looks at so many rows x (R, D): such will be looked for.
    ///
    /// # Safety
    /// As [`largest`](Self::largest).
    unsafe fn learn(&mut self, x: *const c_void, rows: usize);

    /// For each row of x (R, D) which product with a row of the weight is the largest when it is rounded to the weight's type, the first of
    /// equals. False: nothing was found, and all products must be computed.
    ///
    /// # Safety
    /// x is memory of the device, as many rows as `tokens`; nothing that is queued writes it.
    unsafe fn largest(&mut self, tokens: &mut [u32], x: *const c_void) -> bool;
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

/// `c (m, n) = a (m, k) b (k, n)`, or `+=`, with sums in A (f32; f64 of f64).
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
/// For a type that nothing computes in: a mistake of the calling op.
pub fn engine_dtype(dtype: DType) -> engine_dtype {
    match dtype {
        DType::F32 => engine_dtype::ENGINE_F32,
        DType::F64 => engine_dtype::ENGINE_F64,
        DType::Bf16 => engine_dtype::ENGINE_BF16,
        DType::U16 | DType::U32 => panic!("nothing computes in {dtype:?}"),
    }
}
