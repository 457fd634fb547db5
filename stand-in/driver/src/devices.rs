//! The driver, its GPUs and their contexts.

use std::ffi::{CString, c_char, c_int};
use std::sync::atomic::Ordering;

use cudarc::driver::sys::{CUcontext, CUdevice, CUdevice_attribute, CUresult};

use crate::context::{CURRENT, GPUS, Kind, STARTED, context, current, gpu_of, handle, total};
use crate::fault::{Outcome, SILENT, answer, fault};

fn require_gpu(gpu: CUdevice) -> Outcome {
    if !STARTED.load(Ordering::Relaxed) {
        return fault(CUresult::CUDA_ERROR_NOT_INITIALIZED, "cuInit was not called");
    }
    if (0..GPUS).contains(&gpu) { Ok(()) } else { fault(CUresult::CUDA_ERROR_INVALID_DEVICE, format!("no GPU {gpu}")) }
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(flags: u32) -> CUresult {
    answer("cuInit", || {
        if flags != 0 {
            return fault(CUresult::CUDA_ERROR_INVALID_VALUE, format!("flags {flags}"));
        }
        STARTED.store(true, Ordering::Relaxed);
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> CUresult {
    // SAFETY: the caller's.
    unsafe { *version = 13_000 };
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> CUresult {
    answer("cuDeviceGetCount", || {
        require_gpu(0)?;
        // SAFETY: the caller's.
        unsafe { *count = GPUS };
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(device: *mut CUdevice, index: c_int) -> CUresult {
    answer("cuDeviceGet", || {
        require_gpu(index)?;
        // SAFETY: the caller's.
        unsafe { *device = index };
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, len: c_int, device: CUdevice) -> CUresult {
    answer("cuDeviceGetName", || {
        require_gpu(device)?;
        let text = CString::new(format!("Stand-in {device}")).expect("no zeros in it");
        let text = text.as_bytes_with_nul();
        if text.len() > len as usize {
            return fault(CUresult::CUDA_ERROR_INVALID_VALUE, "the name does not fit");
        }
        // SAFETY: the caller's, `len` bytes long.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), name.cast(), text.len()) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, which: CUdevice_attribute, device: CUdevice) -> CUresult {
    use CUdevice_attribute::*;
    answer("cuDeviceGetAttribute", || {
        require_gpu(device)?;
        let known = match which {
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR => 9,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR | CU_DEVICE_ATTRIBUTE_COMPUTE_MODE => 0,
            CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED => 1,
            CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT => 2,
            other => return fault(CUresult::CUDA_ERROR_INVALID_VALUE, format!("{other:?} is not known here")),
        };
        // SAFETY: the caller's.
        unsafe { *value = known };
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice) -> CUresult {
    answer("cuDeviceTotalMem_v2", || {
        require_gpu(device)?;
        // SAFETY: the caller's.
        unsafe { *bytes = total(device).load(Ordering::Relaxed) as usize };
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRetain(made: *mut CUcontext, device: CUdevice) -> CUresult {
    answer("cuDevicePrimaryCtxRetain", || {
        require_gpu(device)?;
        context(device).retained += 1;
        // SAFETY: the caller's.
        unsafe { *made = handle(device, Kind::Context, 0) as CUcontext };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(device: CUdevice) -> CUresult {
    answer("cuDevicePrimaryCtxRelease_v2", || {
        require_gpu(device)?;
        let mut context = context(device);
        match context.retained {
            0 => return fault(CUresult::CUDA_ERROR_INVALID_CONTEXT, "the context was not retained"),
            1 if context.has_modules => return fault(SILENT, "the runtime still has modules in the context"),
            1 if !context.leftovers().is_empty() => return fault(SILENT, context.leftovers().join("; ")),
            _ => context.retained -= 1,
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetCurrent(found: *mut CUcontext) -> CUresult {
    answer("cuCtxGetCurrent", || {
        require_gpu(0)?;
        let found_here = CURRENT.get().map_or(0, |gpu| handle(gpu, Kind::Context, 0));
        // SAFETY: the caller's.
        unsafe { *found = found_here as CUcontext };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(wanted: CUcontext) -> CUresult {
    answer("cuCtxSetCurrent", || {
        let (wanted, gpu) = (wanted as u64, gpu_of(wanted as u64));
        require_gpu(gpu)?;
        if wanted != 0 && (wanted != handle(gpu, Kind::Context, 0) || context(gpu).retained == 0) {
            return fault(CUresult::CUDA_ERROR_INVALID_CONTEXT, format!("{wanted:#x} is no context"));
        }
        CURRENT.set((wanted != 0).then_some(gpu));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> CUresult {
    answer("cuCtxSynchronize", || {
        let mut context = current()?;
        let captured: Vec<u64> = context.streams.keys().copied().collect();
        captured.into_iter().try_for_each(|stream| context.require_not_captured(stream))?;
        context.run_all()
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorString(_code: CUresult, text: *mut *const c_char) -> CUresult {
    // SAFETY: the caller's.
    unsafe { *text = c"as the stand-in of the driver says".as_ptr() };
    CUresult::CUDA_SUCCESS
}
