//! Matrix products on the GPU by cuBLASLt: plans cached per shape, sums in f32, output in f32 where gradients accumulate.
//!
//! A plan is the descriptors and the algorithm that the heuristic chose; asking it takes longer than a small product
//! runs. Through cudarc's `result` and `sys` layers, for the safe one asks on every call and cannot write f32.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys::{self, cublasLtMatmulDescAttributes_t as Attribute, cudaDataType_t};
use cudarc::driver::{CudaStream, result as driver};

use super::failed;
use crate::device::DType;
use crate::device::driver::{Operand, Product};
use crate::err;
use crate::error::{Error, Result};

/// Scratch of the algorithms, as NVIDIA recommends for Hopper: those that split the sum need it.
const WORKSPACE_BYTES: usize = 32 << 20;

/// The library, its scratch and the plans so far.
pub struct Products {
    handle: sys::cublasLtHandle_t,
    workspace: u64,
    plans: RefCell<HashMap<Key, Plan>>,
    stream: Arc<CudaStream>,
}

/// What a plan depends on.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    shape: [usize; 3],
    transposed: [bool; 2],
    strides: [usize; 2],
    types: [DType; 2],
    accumulate: bool,
    /// Of a, b and c, in bytes: some algorithms want 16.
    alignments: [u32; 3],
}

impl Key {
    fn of(p: &Product) -> Self {
        let alignment = |address: *const c_void| 1 << (address as usize).trailing_zeros().min(8);
        Self {
            shape: [p.m, p.n, p.k],
            transposed: [p.a.transposed, p.b.transposed],
            strides: [p.a.stride, p.b.stride],
            types: [p.dtype, p.c_dtype],
            accumulate: p.accumulate,
            alignments: [alignment(p.a.address), alignment(p.b.address), alignment(p.c)],
        }
    }
}

impl Products {
    /// Loads cuBLASLt; an error that says where it comes from when it is not there.
    pub fn new(stream: Arc<CudaStream>) -> Result<Self> {
        // SAFETY: loads the library, which has no side effect beyond its own initialisation.
        if !unsafe { sys::is_culib_present() } {
            return Err(err!("cuBLASLt (libcublasLt.so) was not found").hint(
                "install the CUDA toolkit, or `pip install nvidia-cublas` and put its `nvidia/cu13/lib` on LD_LIBRARY_PATH",
            ));
        }
        let handle = lt::create_handle().map_err(|e| cublas("starting cuBLASLt", e))?;
        // SAFETY: a plain allocation; the stream's context is current.
        let workspace = unsafe { driver::malloc_sync(WORKSPACE_BYTES) };
        let workspace = workspace.map_err(|e| failed("allocating the scratch of cuBLASLt", e))?;
        Ok(Self { handle, workspace, plans: RefCell::default(), stream })
    }

    /// Queues a product.
    ///
    /// # Safety
    /// The matrices are memory of this GPU until the stream has passed the product.
    pub unsafe fn queue(&self, p: &Product) -> Result<()> {
        if p.m == 0 || p.n == 0 {
            return Ok(());
        }
        let mut plans = self.plans.borrow_mut();
        let key = Key::of(p);
        if !plans.contains_key(&key) {
            let plan =
                Plan::new(self.handle, p, &key).map_err(|e| cublas(&format!("planning the product {p:?}"), e))?;
            plans.insert(Key::of(p), plan);
        }
        let plan = &plans[&key];
        let (alpha, beta) = (1.0f32, if p.accumulate { 1.0f32 } else { 0.0 });
        // SAFETY: the caller's promise; the plan is that of this shape. Row-major c = a b is column-major c^T = b^T a^T.
        unsafe {
            lt::matmul(
                self.handle,
                plan.product,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                p.b.address,
                plan.b,
                p.a.address,
                plan.a,
                p.c,
                plan.c,
                p.c,
                plan.c,
                &plan.algorithm,
                self.workspace as *mut c_void,
                WORKSPACE_BYTES,
                self.stream.cu_stream().cast(),
            )
        }
        .map_err(|e| cublas(&format!("the product {p:?}"), e))
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        self.plans.get_mut().clear();
        // SAFETY: made by `new`; freeing waits for the GPU. Nobody could be told of an error here.
        unsafe {
            let _ = driver::free_sync(self.workspace);
            let _ = lt::destroy_handle(self.handle);
        }
    }
}

/// What cuBLASLt needs for one shape.
struct Plan {
    product: sys::cublasLtMatmulDesc_t,
    a: sys::cublasLtMatrixLayout_t,
    b: sys::cublasLtMatrixLayout_t,
    c: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Plan {
    fn new(handle: sys::cublasLtHandle_t, p: &Product, key: &Key) -> Result<Self, CublasError> {
        let (input, output) = (data_type(p.dtype), data_type(p.c_dtype));
        let product = lt::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType_t::CUDA_R_32F)?;
        // CUBLAS_OP_N and CUBLAS_OP_T of cublas_api.h, of which cuBLASLt's header has only the type's size.
        let operation = |operand: Operand| i32::from(operand.transposed);
        // The library's first operand is our b, and each of our row-major matrices is its column-major transpose.
        // SAFETY: the descriptor is alive, the values are of the types that the attributes have.
        unsafe {
            let (first, second) = (operation(p.b), operation(p.a));
            set(product, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &first)?;
            set(product, Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &second)?;
        }
        let layout = |rows: usize, cols: usize, operand: Operand| {
            let (rows, cols) = if operand.transposed { (cols, rows) } else { (rows, cols) };
            lt::create_matrix_layout(input, cols as u64, rows as u64, operand.stride as i64)
        };
        let (a, b) = (layout(p.m, p.k, p.a)?, layout(p.k, p.n, p.b)?);
        let c = lt::create_matrix_layout(output, p.n as u64, p.m as u64, p.n as i64)?;
        // SAFETY: all descriptors are alive.
        let algorithm =
            unsafe { choose(handle, product, [b, a, c], [key.alignments[1], key.alignments[0], key.alignments[2]])? };
        Ok(Self { product, a, b, c, algorithm })
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once. Nobody could be told of an error here.
        unsafe {
            let _ = lt::destroy_matmul_desc(self.product);
            for layout in [self.a, self.b, self.c] {
                let _ = lt::destroy_matrix_layout(layout);
            }
        }
    }
}

/// The algorithm that the library expects to be the fastest.
///
/// # Safety
/// The descriptors are alive.
unsafe fn choose(
    handle: sys::cublasLtHandle_t,
    product: sys::cublasLtMatmulDesc_t,
    [first, second, c]: [sys::cublasLtMatrixLayout_t; 3],
    alignments: [u32; 3],
) -> Result<sys::cublasLtMatmulAlgo_t, CublasError> {
    use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
    let preference = lt::create_matmul_pref()?;
    // SAFETY: the caller's promise; values are of the types that the attributes have.
    let found = unsafe {
        let prefer =
            |attribute, value: *const c_void, size| lt::set_matmul_pref_attribute(preference, attribute, value, size);
        let bytes = WORKSPACE_BYTES;
        prefer(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (&raw const bytes).cast(), size_of::<usize>())
            .and_then(|()| {
                for (attribute, value) in [
                    (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &alignments[0]),
                    (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &alignments[1]),
                    (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &alignments[2]),
                    (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &alignments[2]),
                ] {
                    prefer(attribute, std::ptr::from_ref(value).cast(), size_of::<u32>())?;
                }
                lt::get_matmul_algo_heuristic(handle, product, first, second, c, c, preference)
            })
    };
    // SAFETY: destroyed once.
    unsafe { lt::destroy_matmul_pref(preference)? };
    found.map(|result| result.algo)
}

/// # Safety
/// The descriptor is alive and the attribute is of type T.
unsafe fn set<T>(product: sys::cublasLtMatmulDesc_t, attribute: Attribute, value: &T) -> Result<(), CublasError> {
    // SAFETY: the caller's promise.
    unsafe { lt::set_matmul_desc_attribute(product, attribute, std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

fn data_type(dtype: DType) -> cudaDataType_t {
    match dtype {
        DType::F32 => cudaDataType_t::CUDA_R_32F,
        DType::Bf16 => cudaDataType_t::CUDA_R_16BF,
        DType::F64 => cudaDataType_t::CUDA_R_64F,
        DType::U32 => cudaDataType_t::CUDA_R_32U,
    }
}

fn cublas(doing: &str, error: CublasError) -> Error {
    err!("{doing}: {error}")
}
