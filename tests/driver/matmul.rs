//! The stand-in of cuBLASLt is strict: descriptors, layouts, preferences and algorithms that do not fit are the status that
//! NVIDIA's documentation gives.

use std::ffi::c_void;

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t as Compute, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulPreference_t,
    cublasLtMatmulPreferenceAttributes_t as Preference, cublasLtMatrixLayout_t, cublasStatus_t as Status,
    cudaDataType_t as Type,
};
use engine::device::{DType, Device, Tensor};

use crate::machine::{Gpu, faults};

const FLOAT: Type = Type::CUDA_R_32F;

/// c (4, 4) = a (4, 4) b (4, 4) in f32 on a device of the engine's, whose handles a test may set wrong.
struct Square {
    library: sys::cublasLtHandle_t,
    product: cublasLtMatmulDesc_t,
    layout: cublasLtMatrixLayout_t,
    preferences: cublasLtMatmulPreference_t,
    matrices: [Tensor; 3],
    workspace: Tensor,
    device: Device,
    gpu: Gpu,
}

/// The bytes of a number.
fn bytes<T>(value: &T) -> (*const c_void, usize) {
    (std::ptr::from_ref(value).cast(), size_of::<T>())
}

impl Square {
    fn new() -> Self {
        let gpu = Gpu::new();
        let device = gpu.open().unwrap();
        let matrices = [(); 3].map(|()| Tensor::from_slice(&device, &[16], &[1.0f32; 16]));
        let workspace = Tensor::zeros(&device, &[1024], DType::U32).unwrap();
        let library = lt::create_handle().unwrap();
        let product = lt::create_matmul_desc(Compute::CUBLAS_COMPUTE_32F, FLOAT).unwrap();
        let layout = lt::create_matrix_layout(FLOAT, 4, 4, 4).unwrap();
        let preferences = lt::create_matmul_pref().unwrap();
        Self { library, product, layout, preferences, matrices, workspace, device, gpu }
    }

    fn choose(
        &self,
        a: cublasLtMatrixLayout_t,
        c: cublasLtMatrixLayout_t,
    ) -> Result<cublasLtMatmulAlgo_t, CublasError> {
        // SAFETY: the stand-in looks at them.
        let found = unsafe {
            lt::get_matmul_algo_heuristic(self.library, self.product, a, self.layout, c, c, self.preferences)
        };
        found.map(|found| found.algo)
    }

    fn algorithm(&self) -> cublasLtMatmulAlgo_t {
        self.choose(self.layout, self.layout).unwrap()
    }

    fn prefer<T>(&self, attribute: Preference, value: T) -> Result<(), CublasError> {
        let (from, size) = bytes(&value);
        // SAFETY: so many bytes are there.
        unsafe { lt::set_matmul_pref_attribute(self.preferences, attribute, from, size) }
    }

    /// With a (offset by so many bytes) and the workspace's first bytes, on the device's stream.
    fn run(&self, algorithm: &cublasLtMatmulAlgo_t, offset: usize, workspace: usize) -> Result<(), CublasError> {
        self.run_on(self.device.driver().stream(), algorithm, offset, workspace)
    }

    fn run_on(
        &self,
        stream: *mut c_void,
        algorithm: &cublasLtMatmulAlgo_t,
        offset: usize,
        workspace: usize,
    ) -> Result<(), CublasError> {
        let (one, none) = (1.0f32, 0.0f32);
        let [a, b, c] = [0, 1, 2].map(|i| self.matrices[i].address());
        // SAFETY: the stand-in looks at all of it.
        unsafe {
            lt::matmul(
                self.library,
                self.product,
                (&raw const one).cast(),
                (&raw const none).cast(),
                a.wrapping_byte_add(offset),
                self.layout,
                b,
                self.layout,
                c,
                self.layout,
                c.cast_mut(),
                self.layout,
                algorithm,
                self.workspace.address().cast_mut(),
                workspace,
                stream.cast(),
            )
        }
    }
}

impl Drop for Square {
    fn drop(&mut self) {
        // SAFETY: made by `new`, on this GPU.
        unsafe {
            lt::destroy_matmul_pref(self.preferences).unwrap();
            lt::destroy_matrix_layout(self.layout).unwrap();
            lt::destroy_matmul_desc(self.product).unwrap();
            lt::destroy_handle(self.library).unwrap();
        }
    }
}

#[track_caller]
fn fails<T>(outcome: Result<T, CublasError>, status: Status, why: &str) {
    assert_eq!(outcome.err().map(|error| error.0), Some(status));
    let faults = faults();
    assert!(faults.iter().any(|fault| fault.contains(why)), "{why}: {faults:?}");
}

/// A layout for one test.
fn with_layout<R>(dtype: Type, [rows, cols, ld]: [i64; 3], test: impl FnOnce(cublasLtMatrixLayout_t) -> R) -> R {
    let layout = lt::create_matrix_layout(dtype, rows as u64, cols as u64, ld).unwrap();
    let result = test(layout);
    // SAFETY: made above.
    unsafe { lt::destroy_matrix_layout(layout) }.unwrap();
    result
}

const INVALID: Status = Status::CUBLAS_STATUS_INVALID_VALUE;
const UNSUPPORTED: Status = Status::CUBLAS_STATUS_NOT_SUPPORTED;

#[test]
fn a_product_that_fits_is_computed() {
    let square = Square::new();
    square.run(&square.algorithm(), 0, 0).unwrap();
    assert_eq!(square.matrices[2].download::<f32>().unwrap(), [4.0; 16]);
}

#[test]
fn attributes_of_another_size_or_value_are_refused() {
    let square = Square::new();
    let set = |(from, size)| {
        let attribute = Attribute::CUBLASLT_MATMUL_DESC_TRANSA;
        // SAFETY: so many bytes are there.
        unsafe { lt::set_matmul_desc_attribute(square.product, attribute, from, size) }
    };
    fails(set(bytes(&1u64)), INVALID, "a value of 8 bytes; the attribute has 4");
    fails(set(bytes(&7i32)), INVALID, "7 is no operation");
    let bytes_of_workspace = Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
    fails(square.prefer(bytes_of_workspace, 1u32), INVALID, "a value of 4 bytes; the attribute has 8");
    let alignment = Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES;
    fails(square.prefer(alignment, 16u64), INVALID, "a value of 8 bytes; the attribute has 4");
    square.prefer(alignment, 12u32).unwrap();
    fails(square.choose(square.layout, square.layout), INVALID, "alignments of [12,");
}

#[test]
fn shapes_leading_dimensions_and_types_that_do_not_fit_are_refused() {
    let square = Square::new();
    let with_a = |dtype, shape| with_layout(dtype, shape, |a| square.choose(a, square.layout));
    fails(with_a(FLOAT, [4, 4, 3]), INVALID, "A has 4 rows and a leading dimension of 3");
    fails(with_a(FLOAT, [3, 4, 4]), INVALID, "is not D (4, 4)");
    fails(with_a(FLOAT, [4, 3, 4]), INVALID, "is not D (4, 4)");
    fails(with_a(FLOAT, [0, 4, 4]), INVALID, "A is empty");
    fails(with_a(Type::CUDA_R_16BF, [4, 4, 4]), UNSUPPORTED, "CUDA_R_16BF");
    fails(with_layout(Type::CUDA_R_16BF, [4, 4, 4], |c| square.choose(square.layout, c)), UNSUPPORTED, "CUDA_R_16BF");
    let other = lt::create_matmul_desc(Compute::CUBLAS_COMPUTE_32F, Type::CUDA_R_64F).unwrap();
    let layout = square.layout;
    // SAFETY: the stand-in looks at them.
    unsafe {
        let found =
            lt::get_matmul_algo_heuristic(square.library, other, layout, layout, layout, layout, square.preferences);
        fails(found, UNSUPPORTED, "scaled in CUDA_R_64F");
        lt::destroy_matmul_desc(other).unwrap();
        fails(lt::destroy_matmul_desc(other), INVALID, "or destroyed");
        fails(lt::destroy_matmul_desc(square.layout.cast()), INVALID, "another kind");
    }
}

#[test]
fn a_matrix_that_is_less_aligned_than_was_claimed_is_refused() {
    let square = Square::new();
    // Where nothing is claimed NVIDIA's default is 256 bytes.
    fails(square.run(&square.algorithm(), 4, 0), INVALID, "which 256 bytes do not divide");
    square.prefer(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, 16u32).unwrap();
    fails(square.run(&square.algorithm(), 4, 0), INVALID, "which 16 bytes do not divide");
    // Aligned as was claimed, and a whole row too far.
    fails(square.run(&square.algorithm(), 16, 0), Status::CUBLAS_STATUS_EXECUTION_FAILED, "ILLEGAL_ADDRESS");
}

#[test]
fn a_workspace_that_is_too_small_or_shared_by_two_streams_is_refused() {
    let square = Square::new();
    square.prefer(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, 4096u64).unwrap();
    let algorithm = square.algorithm();
    fails(square.run(&algorithm, 0, 4095), INVALID, "a workspace of 4095 bytes");
    square.run(&algorithm, 0, 4096).unwrap();
    assert_eq!(square.matrices[2].download::<f32>().unwrap(), [4.0; 16]);
    assert_eq!(square.workspace.download::<u32>().unwrap()[5], u32::MAX); // it is written over
    // Another device's stream on the same GPU, while the first product is under way.
    let second = square.gpu.open().unwrap();
    square.run(&algorithm, 0, 4096).unwrap();
    let outcome = square.run_on(second.driver().stream(), &algorithm, 0, 4096);
    assert!(outcome.is_err() && faults()[0].contains("nothing orders them"));
    drop(second);
}

#[test]
fn an_algorithm_of_another_product_is_refused() {
    let square = Square::new();
    let mut algorithm = square.algorithm();
    let transposed = 1i32;
    let (from, size) = bytes(&transposed);
    // SAFETY: so many bytes are there.
    unsafe { lt::set_matmul_desc_attribute(square.product, Attribute::CUBLASLT_MATMUL_DESC_TRANSB, from, size) }
        .unwrap();
    fails(square.run(&algorithm, 0, 0), INVALID, "for another product");
    algorithm.data[0] = 0;
    fails(square.run(&algorithm, 0, 0), INVALID, "neither found nor checked");
}

#[test]
fn the_library_is_that_of_one_gpu_and_needs_its_context() {
    let other = Gpu::new();
    let square = Square::new();
    let algorithm = square.algorithm();
    let stream = square.device.driver().stream();
    crate::memory::unbind();
    fails(square.run_on(stream, &algorithm, 0, 0), Status::CUBLAS_STATUS_NOT_INITIALIZED, "no context");
    fails(lt::create_handle(), Status::CUBLAS_STATUS_NOT_INITIALIZED, "no context");
    let device = other.open().unwrap();
    fails(square.run_on(stream, &algorithm, 0, 0), INVALID, "which is not current");
    drop(device);
    let _ = square.device.driver().stream(); // binds
    fails(square.run_on(std::ptr::null_mut(), &algorithm, 0, 0), Status::CUBLAS_STATUS_EXECUTION_FAILED, "ASSERT");
}

#[test]
fn an_algorithm_of_another_handle_is_refused_until_it_is_checked() {
    let mut square = Square::new();
    let algorithm = square.algorithm();
    let first = std::mem::replace(&mut square.library, lt::create_handle().unwrap());
    fails(square.run(&algorithm, 0, 0), INVALID, "neither found nor checked");
    let check = |algorithm: &cublasLtMatmulAlgo_t| {
        let Square { library, product, layout: of, .. } = square;
        let mut found = std::mem::MaybeUninit::uninit();
        // SAFETY: the stand-in looks at them, and fills what was found where it says that all is well.
        unsafe {
            let status = sys::cublasLtMatmulAlgoCheck(library, product, of, of, of, of, algorithm, found.as_mut_ptr());
            status.result().map(|()| found.assume_init().workspaceSize).map_err(|error| error.0)
        }
    };
    let mut foreign = algorithm;
    foreign.data[3] = 16;
    assert_eq!(check(&foreign), Err(INVALID));
    assert_eq!(check(&algorithm), Ok(0));
    crate::machine::set_version(130_001);
    assert_eq!(check(&algorithm), Err(INVALID));
    crate::machine::set_version(130_000);
    square.run(&algorithm, 0, 0).unwrap();
    assert_eq!(square.matrices[2].download::<f32>().unwrap(), [4.0; 16]);
    // SAFETY: made by `new`.
    unsafe { lt::destroy_handle(first) }.unwrap();
}
