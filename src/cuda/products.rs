//! Matrix products on the GPU by cuBLASLt: plans cached per shape, sums in f32, output in f32 where gradients accumulate.
//!
//! A plan is the descriptors and the algorithm that the heuristic chose; asking it takes longer than a small product
//! runs. Through cudarc's `result` and `sys` layers, for the safe one asks on every call and cannot write f32.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::rc::Rc;

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys::{self, cublasLtMatmulDescAttributes_t as Attribute, cudaDataType_t};

use super::descriptors::{Layout, Library, Matmul, Preferences};
use super::faults::cublas;
use super::stream::{Stream, Workspace};
use crate::device::DType;
use crate::device::driver::{Operand, Product};
use crate::error::Result;

/// Scratch of the algorithms, as NVIDIA recommends for Hopper: those that split the sum need it.
pub const WORKSPACE_BYTES: usize = 32 << 20;

/// The library, its scratch and the plans so far: products of one stream.
pub(super) struct Products {
    plans: RefCell<HashMap<Key, Plan>>,
    workspace: Workspace,
    library: Library,
}

/// What a plan depends on.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    shape: [usize; 3],
    transposed: [bool; 2],
    strides: [usize; 2],
    types: [DType; 2],
    accumulate: bool,
    alignments: Alignments,
}

/// Of the matrices of a product, in bytes: some algorithms want 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Alignments {
    pub a: u32,
    pub b: u32,
    pub c: u32,
}

impl Alignments {
    /// Of these addresses, at most 256.
    pub fn of(p: &Product) -> Self {
        let of = |address: *const c_void| 1 << (address as usize).trailing_zeros().min(8);
        Self { a: of(p.a.address), b: of(p.b.address), c: of(p.c) }
    }
}

impl Key {
    fn of(p: &Product) -> Self {
        Self {
            shape: [p.m, p.n, p.k],
            transposed: [p.a.transposed, p.b.transposed],
            strides: [p.a.stride, p.b.stride],
            types: [p.dtype, p.c_dtype],
            accumulate: p.accumulate,
            alignments: Alignments::of(p),
        }
    }
}

impl Products {
    /// Opens cuBLASLt, which is there, for products on this stream.
    pub fn new(stream: Rc<Stream>) -> Result<Self> {
        stream.bind()?;
        let library = Library::open().map_err(|e| cublas("starting cuBLASLt", e))?;
        let workspace = Workspace::new(stream, WORKSPACE_BYTES)?;
        Ok(Self { plans: RefCell::default(), workspace, library })
    }

    /// Queues a product.
    ///
    /// # Safety
    /// The matrices are memory of this GPU until the stream has passed the product.
    pub unsafe fn queue(&self, p: &Product) -> Result<()> {
        if p.m == 0 || p.n == 0 || (p.k == 0 && p.accumulate) {
            return Ok(());
        }
        let stream = self.workspace.stream();
        if p.k == 0 {
            // The library takes no empty matrices; a sum of nothing is 0.
            // SAFETY: the caller's promise: c is (m, n) without gaps.
            return unsafe { stream.zero(p.c, p.m * p.n * p.c_dtype.size()) };
        }
        stream.bind()?;
        let mut plans = self.plans.borrow_mut();
        let key = Key::of(p);
        if !plans.contains_key(&key) {
            let plan = Plan::new(&self.library, p, key.alignments);
            plans.insert(Key::of(p), plan.map_err(|e| cublas(&format!("planning {}", describe(p)), e))?);
        }
        // SAFETY: the caller's promise; the plan is that of this shape; the context is current.
        unsafe { self.run(&plans[&key], p) }.map_err(|e| cublas(&describe(p), e))
    }

    /// # Safety
    /// As [`Products::queue`]; the plan is that of this product, the context is current.
    unsafe fn run(&self, plan: &Plan, p: &Product) -> Result<(), CublasError> {
        let (alpha, beta) = (1.0f32, if p.accumulate { 1.0f32 } else { 0.0 });
        // Row-major c = a b is column-major c^T = b^T a^T.
        // SAFETY: the caller's promise; alpha and beta are read before this returns.
        unsafe {
            lt::matmul(
                self.library.handle(),
                plan.product.get(),
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                p.b.address,
                plan.b.get(),
                p.a.address,
                plan.a.get(),
                p.c,
                plan.c.get(),
                p.c,
                plan.c.get(),
                &plan.algorithm,
                self.workspace.address(),
                self.workspace.bytes(),
                self.workspace.stream().raw().cast(),
            )
        }
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        // For the library, which goes after this. Drop cannot report errors.
        let _ = self.workspace.stream().bind();
    }
}

/// What cuBLASLt needs for one shape.
struct Plan {
    product: Matmul,
    a: Layout,
    b: Layout,
    c: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Plan {
    fn new(library: &Library, p: &Product, alignments: Alignments) -> Result<Self, CublasError> {
        let (input, output) = (data_type(p.dtype), data_type(p.c_dtype));
        let product = Matmul::new(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType_t::CUDA_R_32F)?;
        // CUBLAS_OP_N and CUBLAS_OP_T of cublas_api.h, of which cuBLASLt's header has only the type's size.
        let operation = |operand: Operand| i32::from(operand.transposed);
        // The library's first operand is our b, and each of our row-major matrices is its column-major transpose.
        product.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, operation(p.b))?;
        product.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, operation(p.a))?;
        let layout = |rows: usize, cols: usize, operand: Operand| {
            let (rows, cols) = if operand.transposed { (cols, rows) } else { (rows, cols) };
            Layout::new(input, [cols, rows], operand.stride)
        };
        let (a, b) = (layout(p.m, p.k, p.a)?, layout(p.k, p.n, p.b)?);
        let c = Layout::new(output, [p.n, p.m], p.n)?;
        let preferences = Preferences::new(&preferences(alignments))?;
        let algorithm = library.choose(&product, [&b, &a, &c], &preferences)?;
        Ok(Self { product, a, b, c, algorithm })
    }
}

/// Something that binds the library's choice of an algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preference {
    pub attribute: sys::cublasLtMatmulPreferenceAttributes_t,
    pub value: Value,
}

/// A number in the type that an attribute has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    U32(u32),
    U64(u64),
}

/// What an algorithm must do with: the scratch, the alignments, and sums in f32.
///
/// An algorithm may cut the sum over k into parts that are added at the end. A bit of the mask allows a way to keep the
/// parts; that there are none needs no bit. Only the type of the sum will do (COMPUTE_TYPE): INPLACE and OUTPUT_TYPE
/// would round each part to the type of c, which is bf16 for activations.
pub fn preferences(alignments: Alignments) -> [Preference; 6] {
    use Value::{U32, U64};
    use sys::cublasLtMatmulPreferenceAttributes_t::*;
    let f32_parts = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
    // The library's a is our b.
    [
        (CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, U64(WORKSPACE_BYTES as u64)),
        (CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, U32(f32_parts)),
        (CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, U32(alignments.b)),
        (CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, U32(alignments.a)),
        (CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, U32(alignments.c)),
        (CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, U32(alignments.c)),
    ]
    .map(|(attribute, value)| Preference { attribute, value })
}

/// A product for people: shapes, types, and what else a plan depends on.
pub fn describe(p: &Product) -> String {
    let operand = |name: &str, shape: [usize; 2], operand: Operand| {
        let [rows, cols] = shape;
        let transposed = if operand.transposed { " transposed" } else { "" };
        format!("{name} ({rows}, {cols}){transposed} by {}", operand.stride)
    };
    let (a, b) = (operand("a", [p.m, p.k], p.a), operand("b", [p.k, p.n], p.b));
    let equals = if p.accumulate { "+=" } else { "=" };
    let Alignments { a: of_a, b: of_b, c: of_c } = Alignments::of(p);
    format!(
        "the product c ({}, {}) {:?} {equals} {a} x {b} {:?}, aligned to {of_c}, {of_a}, {of_b} bytes",
        p.m, p.n, p.c_dtype, p.dtype
    )
}

fn data_type(dtype: DType) -> cudaDataType_t {
    match dtype {
        DType::F32 => cudaDataType_t::CUDA_R_32F,
        DType::Bf16 => cudaDataType_t::CUDA_R_16BF,
        DType::F64 => cudaDataType_t::CUDA_R_64F,
        DType::U32 => cudaDataType_t::CUDA_R_32U,
    }
}
