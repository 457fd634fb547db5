//! cuBLASLt's handles, each given back when it goes. All calls of the library but the product itself are here.

use std::ffi::c_void;

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys::{self, cublasLtMatmulDescAttributes_t as Attribute, cudaDataType_t};

use super::choices::Algorithm;

type Result<T> = std::result::Result<T, CublasError>;

/// The library, opened for the GPU whose context is current. It is current again when this is dropped.
pub(super) struct Library(sys::cublasLtHandle_t);

impl Library {
    /// The caller has seen that the library is there.
    pub fn open() -> Result<Self> {
        lt::create_handle().map(Self)
    }

    pub fn handle(&self) -> sys::cublasLtHandle_t {
        self.0
    }

    /// The algorithms that the library expects to be the fastest, best first, at most `most`; NOT_SUPPORTED when there is none.
    pub fn find(
        &self,
        product: &Matmul,
        [first, second, c]: [&Layout; 3],
        preferences: &Preferences,
        most: usize,
    ) -> Result<Vec<Algorithm>> {
        let (first, second, c) = (first.get(), second.get(), c.get());
        let mut found = vec![NONE_FOUND; most];
        let mut count = 0;
        // SAFETY: all of them live as long as their borrows, and there is room for `most`.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.0,
                product.get(),
                first,
                second,
                c,
                c,
                preferences.0,
                most as i32,
                found.as_mut_ptr(),
                &raw mut count,
            )
        };
        status.result()?;
        found.truncate(count as usize);
        // The library may list what it cannot do after all.
        found.retain(|found| found.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS);
        match found.is_empty() {
            true => Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)),
            false => Ok(found.iter().map(algorithm).collect()),
        }
    }

    /// Whether the library knows the algorithm and can compute the product by it, with the scratch that it then takes.
    pub fn check(
        &self,
        product: &Matmul,
        [first, second, c]: [&Layout; 3],
        Algorithm { words, .. }: Algorithm,
    ) -> Result<Algorithm> {
        let (first, second, c) = (first.get(), second.get(), c.get());
        let algo = sys::cublasLtMatmulAlgo_t { data: words };
        let mut found = NONE_FOUND;
        // SAFETY: all of them live as long as their borrows.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(self.0, product.get(), first, second, c, c, &raw const algo, &raw mut found)
        };
        status.result()?;
        Ok(Algorithm { words, workspace: found.workspaceSize })
    }
}

/// What the library writes over.
const NONE_FOUND: sys::cublasLtMatmulHeuristicResult_t = sys::cublasLtMatmulHeuristicResult_t {
    algo: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
    workspaceSize: 0,
    state: sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
    wavesCount: 0.0,
    reserved: [0; 4],
};

fn algorithm(found: &sys::cublasLtMatmulHeuristicResult_t) -> Algorithm {
    Algorithm { words: found.algo.data, workspace: found.workspaceSize }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: made by `open`, destroyed once. Drop cannot report errors.
        let _ = unsafe { lt::destroy_handle(self.0) };
    }
}

/// What kind of product it is.
pub(super) struct Matmul(sys::cublasLtMatmulDesc_t);

impl Matmul {
    pub fn new(compute: sys::cublasComputeType_t, scale: cudaDataType_t) -> Result<Self> {
        lt::create_matmul_desc(compute, scale).map(Self)
    }

    pub fn get(&self) -> sys::cublasLtMatmulDesc_t {
        self.0
    }

    /// Sets an attribute whose type is a 32-bit integer, as that of all that are used here.
    pub fn set(&self, attribute: Attribute, value: i32) -> Result<()> {
        // SAFETY: the descriptor is alive; the library reads the four bytes that it is told of.
        unsafe { lt::set_matmul_desc_attribute(self.0, attribute, (&raw const value).cast(), size_of_val(&value)) }
    }
}

impl Drop for Matmul {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once. Drop cannot report errors.
        let _ = unsafe { lt::destroy_matmul_desc(self.0) };
    }
}

/// How a matrix lies in memory, by columns.
pub(super) struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    /// Columns lie `stride` elements apart.
    pub fn new(dtype: cudaDataType_t, [rows, cols]: [usize; 2], stride: usize) -> Result<Self> {
        lt::create_matrix_layout(dtype, rows as u64, cols as u64, stride as i64).map(Self)
    }

    pub fn get(&self) -> sys::cublasLtMatrixLayout_t {
        self.0
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once. Drop cannot report errors.
        let _ = unsafe { lt::destroy_matrix_layout(self.0) };
    }
}

/// What the choice of an algorithm is bound by.
pub(super) struct Preferences(sys::cublasLtMatmulPreference_t);

impl Preferences {
    pub fn new(list: &[Preference]) -> Result<Self> {
        let preferences = lt::create_matmul_pref().map(Self)?;
        for Preference { attribute, value } in list {
            let (bytes, size): (*const c_void, usize) = match value {
                Value::U32(value) => (std::ptr::from_ref(value).cast(), size_of::<u32>()),
                Value::U64(value) => (std::ptr::from_ref(value).cast(), size_of::<u64>()),
            };
            // SAFETY: the preferences are alive; the library reads the bytes that it is told of.
            unsafe { lt::set_matmul_pref_attribute(preferences.0, *attribute, bytes, size)? };
        }
        Ok(preferences)
    }
}

impl Drop for Preferences {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once. Drop cannot report errors.
        let _ = unsafe { lt::destroy_matmul_pref(self.0) };
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
