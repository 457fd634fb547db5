//! Matrix products on the GPU by cuBLASLt: plans cached per shape, sums in f32, output in f32 where gradients accumulate.
//!
//! A plan is the descriptors and an algorithm. The library lists algorithms by what it expects of them; where the product is large
//! enough to matter, the first few are timed, once: the choice is kept on disk ([`choices`](super::choices)), and is part of a
//! checkpoint, for algorithms differ in the order of their sums. So products are the same to the bit as long as the choices are.
//! Through cudarc's `result` and `sys` layers, for the safe one asks on every call and cannot write f32.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::path::PathBuf;
use std::rc::Rc;

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys::{self, cublasLtMatmulDescAttributes_t as Attribute, cudaDataType_t};

use super::choices::{Algorithm, Choices, File};
use super::descriptors::{Layout, Library, Matmul, Preferences};
pub use super::descriptors::{Preference, Value};
use super::faults::cublas;
use super::stream::{Stream, Workspace};
use super::timing::fastest;
use crate::device::DType;
use crate::device::driver::{Operand, Product};
use crate::error::Result;

/// Scratch of the algorithms, as NVIDIA recommends for Hopper: those that split the sum need it.
pub const WORKSPACE_BYTES: usize = 32 << 20;

/// Algorithms among which the fastest is looked for.
const CANDIDATES: usize = 8;
/// Elements of its three matrices from which on a product matters: half of a layer's smallest weight.
const LEAST_ELEMENTS: usize = 1 << 18;
/// So many products that matter are chosen with care, in the order in which they come; what comes later takes the library's first. Each is
/// timed for some milliseconds, and batches that no graph wants padded come in sizes without end.
const MOST_CHOSEN: usize = 256;

/// How algorithms are chosen.
pub(super) struct Choosing {
    /// What a choice is good for.
    pub platform: String,
    /// By timing; otherwise the library's first.
    pub timed: bool,
    /// Where choices are kept; None: nowhere.
    pub folder: Option<PathBuf>,
}

/// The library, its scratch and the plans so far: products of one stream.
pub(super) struct Products {
    plans: RefCell<HashMap<Key, Plan>>,
    /// Of the first products that mattered.
    chosen: RefCell<Choices>,
    choosing: Choosing,
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
    /// Of these addresses, at most 16, the widest access of a multiprocessor: claims beyond it would make several products of one shape.
    pub fn of(p: &Product) -> Self {
        let of = |address: *const c_void| 1 << (address as usize).trailing_zeros().min(4);
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
    pub fn new(stream: Rc<Stream>, choosing: Choosing) -> Result<Self> {
        stream.bind()?;
        let library = Library::open().map_err(|e| cublas("starting cuBLASLt", e))?;
        let workspace = Workspace::new(stream, WORKSPACE_BYTES)?;
        Ok(Self { plans: RefCell::default(), chosen: RefCell::default(), choosing, workspace, library })
    }

    /// As [`Driver::choices`](crate::device::driver::Driver::choices).
    pub fn choices(&self) -> String {
        self.chosen.borrow().text(&self.choosing.platform)
    }

    /// As [`Driver::choose`](crate::device::driver::Driver::choose).
    pub fn choose(&self, choices: &str) -> bool {
        let Some(choices) = Choices::parse(choices, &self.choosing.platform) else { return false };
        self.plans.borrow_mut().clear();
        *self.chosen.borrow_mut() = choices;
        true
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
            // SAFETY: the caller's promise; the context is current.
            let plan = unsafe { self.plan(p, key.alignments)? };
            plans.insert(Key::of(p), plan);
        }
        let Plan { problem, algorithm } = &plans[&key];
        // SAFETY: the caller's promise; the plan is that of this shape; the context is current.
        unsafe { self.run(problem, algorithm, p) }.map_err(|e| cublas(&describe(p), e))
    }

    /// # Safety
    /// As [`Products::queue`]; the context is current.
    unsafe fn plan(&self, p: &Product, alignments: Alignments) -> Result<Plan> {
        let failed = |e| cublas(&format!("planning {}", describe(p)), e);
        let problem = Problem::new(p).map_err(failed)?;
        let matters = p.m * p.k + p.k * p.n + p.m * p.n >= LEAST_ELEMENTS;
        let name = describe(p);
        let algorithm = match self.known(&problem, &name, matters) {
            Some(known) => known,
            None => {
                let timed = matters && self.may_time();
                let candidates = if timed { CANDIDATES } else { 1 };
                let found = problem.find(&self.library, alignments, candidates).map_err(failed)?;
                // SAFETY: the caller's promise.
                let fastest = if timed { unsafe { self.fastest(&problem, &found, p)? } } else { None };
                if let (Some(fastest), Some(file)) = (fastest, self.file()) {
                    file.keep(&name, found[fastest]);
                }
                found[fastest.unwrap_or(0)]
            }
        };
        let mut chosen = self.chosen.borrow_mut();
        if matters && chosen.0.len() < MOST_CHOSEN {
            chosen.0.insert(name, algorithm);
        }
        Ok(Plan { problem, algorithm })
    }

    /// What was chosen for a product before, by this device, by one whose choices it makes, or by one on this machine.
    fn known(&self, problem: &Problem, name: &str, matters: bool) -> Option<Algorithm> {
        if !matters {
            return None;
        }
        let chosen = self.chosen.borrow().0.get(name).copied();
        let kept = || self.may_time().then(|| self.file()?.get(name)).flatten();
        let known = problem.check(&self.library, chosen.or_else(kept)?).ok()?;
        (known.workspace <= self.workspace.bytes()).then_some(known)
    }

    /// Not within a capture, which runs nothing.
    fn may_time(&self) -> bool {
        let room = self.chosen.borrow().0.len() < MOST_CHOSEN;
        room && self.choosing.timed && !self.workspace.stream().is_capturing()
    }

    fn file(&self) -> Option<File> {
        self.choosing.folder.as_deref().map(|folder| File::new(folder, &self.choosing.platform))
    }

    /// The place of the fastest algorithm. Where c is written, it is written by each of them, and by the fastest afterwards; where c
    /// is added to, they add to something else. None when there is no memory for that, or none of them runs.
    ///
    /// # Safety
    /// As [`Products::queue`]; the context is current.
    unsafe fn fastest(&self, problem: &Problem, found: &[Algorithm], p: &Product) -> Result<Option<usize>> {
        if found.len() == 1 {
            return Ok(Some(0));
        }
        let bytes = p.m * p.n * p.c_dtype.size();
        let scratch = match p.accumulate {
            true => match Workspace::new(self.workspace.stream().clone(), bytes) {
                Ok(scratch) => Some(scratch),
                Err(_) => return Ok(None),
            },
            false => None,
        };
        let timed = Product { c: scratch.as_ref().map_or(p.c, Workspace::address), ..*p };
        // SAFETY: the caller's promise, and the scratch is as large as c; who is timed has been waited for when it goes.
        let run = |i: usize| unsafe { self.run(problem, &found[i], &timed) }.is_ok();
        fastest(&self.workspace, found.len(), run)
    }

    /// # Safety
    /// As [`Products::queue`]; the problem and the algorithm are of this product, the context is current.
    unsafe fn run(&self, problem: &Problem, algorithm: &Algorithm, p: &Product) -> Result<(), CublasError> {
        let algorithm = sys::cublasLtMatmulAlgo_t { data: algorithm.words };
        let (alpha, beta) = (1.0f32, if p.accumulate { 1.0f32 } else { 0.0 });
        // Row-major c = a b is column-major c^T = b^T a^T.
        // SAFETY: the caller's promise; alpha and beta are read before this returns.
        unsafe {
            lt::matmul(
                self.library.handle(),
                problem.product.get(),
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                p.b.address,
                problem.b.get(),
                p.a.address,
                problem.a.get(),
                p.c,
                problem.c.get(),
                p.c,
                problem.c.get(),
                &raw const algorithm,
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
    problem: Problem,
    algorithm: Algorithm,
}

/// A product as cuBLASLt is told of it.
struct Problem {
    product: Matmul,
    a: Layout,
    b: Layout,
    c: Layout,
}

impl Problem {
    fn new(p: &Product) -> Result<Self, CublasError> {
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
        Ok(Self { product, a, b, c })
    }

    /// The library's layouts of its first operand, its second, and the result.
    fn layouts(&self) -> [&Layout; 3] {
        [&self.b, &self.a, &self.c]
    }

    fn find(&self, library: &Library, alignments: Alignments, most: usize) -> Result<Vec<Algorithm>, CublasError> {
        library.find(&self.product, self.layouts(), &Preferences::new(&preferences(alignments))?, most)
    }

    fn check(&self, library: &Library, algorithm: Algorithm) -> Result<Algorithm, CublasError> {
        library.check(&self.product, self.layouts(), algorithm)
    }
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
        DType::U16 => cudaDataType_t::CUDA_R_16U,
        DType::U32 => cudaDataType_t::CUDA_R_32U,
    }
}
