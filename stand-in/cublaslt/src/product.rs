//! Products.

use std::ffi::c_void;

use cudarc::cublaslt::sys::{
    cublasComputeType_t as Compute, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatrixLayout_t, cublasLtReductionScheme_t as Scheme, cublasStatus_t as Status, cudaDataType_t as Type,
    cudaStream_t,
};
use cudarc::driver::sys::CUresult;

use crate::abi::{Access, Gemm, Work};
use crate::algorithms;
use crate::descriptors::{Layout, Matmul, layout, matmul, require_handle};
use crate::driver::{Outcome, answer, enqueue, fault};
use crate::multiply::{Rounding, multiply};

const INVALID: Status = Status::CUBLAS_STATUS_INVALID_VALUE;

/// What a product is, without its addresses: the descriptor, and the layouts of A, B, C and D.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Problem {
    matmul: Matmul,
    pub layouts: [Layout; 4],
}

impl Problem {
    pub fn new(product: u64, layouts: [u64; 4]) -> Outcome<Self> {
        let [a, b, c, d] = layouts;
        let problem = Self { matmul: matmul(product)?, layouts: [layout(a)?, layout(b)?, layout(c)?, layout(d)?] };
        problem.check()?;
        Ok(problem)
    }

    fn check(&self) -> Outcome {
        let [a, b, c, d] = self.layouts;
        for (name, layout) in ["A", "B", "C", "D"].into_iter().zip(self.layouts) {
            if layout.rows == 0 || layout.cols == 0 {
                return fault(INVALID, format!("{name} is empty"));
            }
            if layout.ld < layout.rows as i64 {
                return fault(
                    INVALID,
                    format!("{name} has {} rows and a leading dimension of {}", layout.rows, layout.ld),
                );
            }
        }
        let (op_a, op_b) = (self.operand(0), self.operand(1));
        if op_a[1] != op_b[0] || [op_a[0], op_b[1]] != [d.rows, d.cols] || [c.rows, c.cols] != [d.rows, d.cols] {
            return fault(INVALID, format!("op(A) {op_a:?} times op(B) {op_b:?} is not D ({}, {})", d.rows, d.cols));
        }
        self.check_types(a, b, c, d)
    }

    fn check_types(&self, a: Layout, b: Layout, c: Layout, d: Layout) -> Outcome {
        use Compute::*;
        let types = [a.dtype, b.dtype, c.dtype, d.dtype];
        let Matmul { compute, scale, .. } = self.matmul;
        let (float, half) = (Type::CUDA_R_32F, Type::CUDA_R_16BF);
        let known = match compute {
            CUBLAS_COMPUTE_32F => [[float; 4], [half; 4], [half, half, float, float]].contains(&types),
            CUBLAS_COMPUTE_32F_FAST_TF32 | CUBLAS_COMPUTE_32F_FAST_16BF => types == [float; 4],
            _ => false,
        };
        if known && scale == float {
            return Ok(());
        }
        let why = format!("{types:?} in {compute:?}, scaled in {scale:?}");
        fault(Status::CUBLAS_STATUS_NOT_SUPPORTED, why)
    }

    /// Rows and columns of op(A) or op(B).
    fn operand(&self, which: usize) -> [u64; 2] {
        let Layout { rows, cols, .. } = self.layouts[which];
        if self.matmul.transposed[which] { [cols, rows] } else { [rows, cols] }
    }

    pub fn rounding(&self, reductions: u32) -> Rounding {
        let in_output =
            Scheme::CUBLASLT_REDUCTION_SCHEME_INPLACE as u32 | Scheme::CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE as u32;
        match self.matmul.compute {
            Compute::CUBLAS_COMPUTE_32F_FAST_TF32 => Rounding::InputsTo(10),
            Compute::CUBLAS_COMPUTE_32F_FAST_16BF => Rounding::InputsTo(7),
            _ if reductions & in_output != 0 && self.layouts[3].dtype == Type::CUDA_R_16BF => Rounding::Parts,
            _ => Rounding::None,
        }
    }
}

pub fn bytes_of(dtype: Type) -> u64 {
    if dtype == Type::CUDA_R_16BF { 2 } else { 4 }
}

/// Bytes at each end of a workspace that a product writes over.
const SCRIBBLED: usize = 16 << 10;

/// A product that waits for its turn.
struct Queued {
    gemm: Gemm,
    rounding: Rounding,
    workspace: *mut u8,
    workspace_bytes: usize,
}

unsafe extern "C" fn run(data: *mut c_void) -> CUresult {
    // SAFETY: that of `drop_queued`; the driver has seen that the memory is there.
    unsafe {
        let queued = &*data.cast::<Queued>();
        // What lay there is of no use to anybody. Both ends are enough to find who thinks otherwise.
        let part = queued.workspace_bytes.min(SCRIBBLED);
        queued.workspace.write_bytes(0xff, part);
        queued.workspace.add(queued.workspace_bytes - part).write_bytes(0xff, part);
        multiply(&queued.gemm, queued.rounding);
    }
    CUresult::CUDA_SUCCESS
}

unsafe extern "C" fn drop_queued(data: *mut c_void) {
    // SAFETY: the box that `cublasLtMatmul` made, once.
    drop(unsafe { Box::from_raw(data.cast::<Queued>()) });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmul(
    handle: cublasLtHandle_t,
    product: cublasLtMatmulDesc_t,
    alpha: *const c_void,
    a: *const c_void,
    a_layout: cublasLtMatrixLayout_t,
    b: *const c_void,
    b_layout: cublasLtMatrixLayout_t,
    beta: *const c_void,
    c: *const c_void,
    c_layout: cublasLtMatrixLayout_t,
    d: *mut c_void,
    d_layout: cublasLtMatrixLayout_t,
    algorithm: *const cublasLtMatmulAlgo_t,
    workspace: *mut c_void,
    workspace_bytes: usize,
    stream: cudaStream_t,
) -> Status {
    answer("cublasLtMatmul", || {
        require_handle(handle as u64)?;
        let problem =
            Problem::new(product as u64, [a_layout, b_layout, c_layout, d_layout].map(|layout| layout as u64))?;
        if alpha.is_null() || beta.is_null() || algorithm.is_null() {
            return fault(INVALID, "a null pointer");
        }
        // SAFETY: the scale type is f32; the caller's.
        let (alpha, beta, words) = unsafe { (*alpha.cast::<f32>(), *beta.cast::<f32>(), (*algorithm).data) };
        let choice = algorithms::checked(handle as u64, words)?;
        let addresses = [a as u64, b as u64, c as u64, d as u64];
        choice.require(&problem, addresses, (workspace as u64, workspace_bytes as u64))?;
        if alpha != 1.0 || (beta != 0.0 && beta != 1.0) || c != d.cast_const() || c_layout != d_layout {
            return fault(Status::CUBLAS_STATUS_NOT_SUPPORTED, "the engine writes or adds, in place");
        }
        let gemm = gemm(&problem, [a, b], d, beta == 1.0);
        if !algorithms::runs(choice.id) {
            return fault(Status::CUBLAS_STATUS_NOT_SUPPORTED, algorithms::DOES_NOT_RUN);
        }
        let taken = choice.workspace as usize;
        let (workspace, rounding) = (workspace.cast(), choice.rounding);
        let queued = Box::new(Queued { gemm, rounding, workspace, workspace_bytes: taken });
        let accesses = accesses(&problem, addresses, queued.workspace as u64, taken as u64);
        let work = Work {
            run,
            drop: drop_queued,
            data: Box::into_raw(queued).cast(),
            accesses: accesses.as_ptr(),
            accesses_len: accesses.len(),
            what: c"a product".as_ptr(),
            nanoseconds: algorithms::begin(handle as u64, &choice),
        };
        enqueue(stream.cast(), &work)
    })
}

fn gemm(problem: &Problem, [a, b]: [*const c_void; 2], d: *mut c_void, accumulate: bool) -> Gemm {
    let [of_a, of_b, _, of_d] = problem.layouts;
    let [transposed_a, transposed_b] = problem.matmul.transposed;
    Gemm {
        m: of_d.rows as usize,
        n: of_d.cols as usize,
        k: problem.operand(0)[1] as usize,
        a,
        lda: of_a.ld as usize,
        transposed_a,
        b,
        ldb: of_b.ld as usize,
        transposed_b,
        d,
        ldd: of_d.ld as usize,
        d_is_bf16: of_d.dtype == Type::CUDA_R_16BF,
        inputs_are_bf16: of_a.dtype == Type::CUDA_R_16BF,
        accumulate,
    }
}

/// What a product reads and writes: each matrix from its first to its last element, and the workspace.
fn accesses(problem: &Problem, addresses: [u64; 4], workspace: u64, workspace_bytes: u64) -> Vec<Access> {
    let of_matrix = |i: usize| {
        let Layout { dtype, rows, cols, ld } = problem.layouts[i];
        let elements = (cols - 1) * ld as u64 + rows;
        Access { address: addresses[i], bytes: elements * bytes_of(dtype), writes: i == 3 }
    };
    let scratch = Access { address: workspace, bytes: workspace_bytes, writes: true };
    (0..4).map(of_matrix).chain((workspace_bytes > 0).then_some(scratch)).collect()
}
