//! cuBLASLt's handles, each given back when it goes. All calls of the library but the product itself are here.

use std::ffi::c_void;

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys::{self, cublasLtMatmulDescAttributes_t as Attribute, cudaDataType_t};

use super::products::{Preference, Value};

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

    /// The algorithm that the library expects to be the fastest; NOT_SUPPORTED when there is none.
    pub fn choose(
        &self,
        product: &Matmul,
        [first, second, c]: [&Layout; 3],
        preferences: &Preferences,
    ) -> Result<sys::cublasLtMatmulAlgo_t> {
        let (first, second, c) = (first.get(), second.get(), c.get());
        // SAFETY: all of them live as long as their borrows.
        let found = unsafe { lt::get_matmul_algo_heuristic(self.0, product.get(), first, second, c, c, preferences.0) };
        found.map(|result| result.algo)
    }
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
