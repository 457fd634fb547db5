//! What the CUDA driver and cuBLASLt say, as errors that say what to do about it.

use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::sys::cublasStatus_t;
use cudarc::driver::sys::CUresult;
use cudarc::driver::{DriverError, result};

use crate::device::OutOfMemory;
use crate::err;
use crate::error::Error;

const NAME_THE_OP: &str = "run it again with `ENGINE_DEBUG_SYNC=1`, which names the op that failed";

/// What the driver says, as an error.
pub(super) fn failed(doing: &str, error: DriverError) -> Error {
    let said = error.error_string().map(|text| text.to_string_lossy().into_owned());
    described(doing, error.0, &said.unwrap_or_default())
}

/// As [`failed`], of something that takes `wanted` bytes of the GPU, where that is known. The context is current.
pub(super) fn failed_to_allocate(doing: &str, wanted: Option<usize>, error: DriverError) -> Error {
    if error.0 != CUresult::CUDA_ERROR_OUT_OF_MEMORY {
        return failed(doing, error);
    }
    let (free, total) = result::mem_get_info().unwrap_or_default();
    OutOfMemory { wanted, free, total }.while_doing(doing)
}

/// An error of the driver: `code`, and the sentence that it has for it.
pub fn described(doing: &str, code: CUresult, said: &str) -> Error {
    let error = err!("{doing}: {said} ({code:?})");
    match advice(code) {
        Some(advice) => error.hint(advice),
        None => error,
    }
}

/// What helps against an error of the driver, where that is known.
pub fn advice(code: CUresult) -> Option<&'static str> {
    use CUresult::*;
    Some(match code {
        CUDA_ERROR_STUB_LIBRARY => {
            "the `libcuda.so` that was found is the toolkit's stand-in for linking: take its folder `stubs` out of \
             LD_LIBRARY_PATH; or use `--device cpu`"
        }
        CUDA_ERROR_NO_DEVICE => {
            "see whether `nvidia-smi` lists a GPU, whether CUDA_VISIBLE_DEVICES hides it, and whether a container was \
             started with its GPUs; or use `--device cpu`"
        }
        CUDA_ERROR_DEVICE_UNAVAILABLE => {
            "another program has this GPU to itself (see `nvidia-smi`): use another by `--device cuda:N`, or \
             `--device cpu`"
        }
        CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            "the driver's library and its kernel module are of different versions, as after an update: restart the \
             machine; or use `--device cpu`"
        }
        CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            "the package `cuda-compat` does not work with this GPU: take its folder out of LD_LIBRARY_PATH and update \
             the driver; or use `--device cpu`"
        }
        CUDA_ERROR_SYSTEM_NOT_READY => {
            "a service of the driver is not running (on machines with NVSwitch: `nvidia-fabricmanager`); or use \
             `--device cpu`"
        }
        CUDA_ERROR_UNKNOWN => {
            "see whether `nvidia-smi` works; if it does, the kernel module `nvidia-uvm` may not be loaded \
             (`modprobe nvidia-uvm`); or use `--device cpu`"
        }
        CUDA_ERROR_OUT_OF_MEMORY => "see by `nvidia-smi` which programs hold the GPU's memory",
        CUDA_ERROR_NO_BINARY_FOR_GPU | CUDA_ERROR_UNSUPPORTED_PTX_VERSION | CUDA_ERROR_JIT_COMPILER_NOT_FOUND => {
            "this build has no machine code for this GPU and the driver cannot make it: update the driver, or build \
             with a CUDA compiler that knows the GPU; or use `--device cpu`"
        }
        CUDA_ERROR_ECC_UNCORRECTABLE | CUDA_ERROR_NVLINK_UNCORRECTABLE | CUDA_ERROR_HARDWARE_STACK_ERROR => {
            "the GPU's hardware failed: see `dmesg` for `Xid` and `nvidia-smi -q -d ECC`, and reset or change it"
        }
        CUDA_ERROR_LAUNCH_TIMEOUT => {
            "a GPU that drives a display stops kernels that take seconds: use one that drives none, or a smaller \
             `--per-device-train-batch-size`"
        }
        CUDA_ERROR_ILLEGAL_ADDRESS
        | CUDA_ERROR_MISALIGNED_ADDRESS
        | CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUDA_ERROR_INVALID_PC
        | CUDA_ERROR_ASSERT
        | CUDA_ERROR_LAUNCH_FAILED => NAME_THE_OP,
        CUDA_ERROR_STREAM_CAPTURE_INVALIDATED => "`--cuda-graphs false` trains without graphs",
        _ => return None,
    })
}

/// What cuBLASLt says, as an error.
pub(super) fn cublas(doing: &str, error: CublasError) -> Error {
    let said = err!("{doing}: {error}");
    match error.0 {
        cublasStatus_t::CUBLAS_STATUS_EXECUTION_FAILED | cublasStatus_t::CUBLAS_STATUS_INTERNAL_ERROR => {
            said.hint(NAME_THE_OP)
        }
        cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED | cublasStatus_t::CUBLAS_STATUS_ARCH_MISMATCH => {
            said.hint("this cuBLASLt cannot do it on this GPU: install a newer one, or use `--device cpu`")
        }
        _ => said,
    }
}
