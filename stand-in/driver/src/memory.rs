//! Memory of the GPU, and page-locked memory of the host.

use std::ffi::c_void;
use std::sync::Mutex;

use cudarc::driver::sys::{CUdeviceptr, CUresult};

use crate::abi::Memory;
use crate::context::{Pinned, current};
use crate::fault::{SILENT, answer, fault};

static SOURCE: Mutex<Option<Memory>> = Mutex::new(None);

/// Where the memory of all GPUs is to come from. To be called before the first allocation.
#[unsafe(no_mangle)]
extern "C" fn stand_in_memory(memory: Memory) {
    *SOURCE.lock().expect("nobody panics with it") = Some(memory);
}

fn source() -> Memory {
    SOURCE.lock().expect("nobody panics with it").expect("stand_in_memory was called")
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CUresult {
    answer("cuMemGetInfo_v2", || {
        let (left, all) = current()?.free_and_total();
        // SAFETY: the caller's.
        unsafe {
            *free = left as usize;
            *total = all as usize;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(made: *mut CUdeviceptr, bytes: usize) -> CUresult {
    answer("cuMemAlloc_v2", || {
        let mut context = current()?;
        context.require_no_strict_capture()?;
        if bytes == 0 {
            return fault(CUresult::CUDA_ERROR_INVALID_VALUE, "an allocation of no bytes");
        }
        let address = match bytes as u64 > context.free_and_total().0 {
            true => std::ptr::null_mut(),
            // SAFETY: any size is fine.
            false => unsafe { (source().allocate)(bytes) },
        };
        if address.is_null() {
            return fault(CUresult::CUDA_ERROR_OUT_OF_MEMORY, format!("{bytes} bytes"));
        }
        context.add_block(address as u64, bytes as u64);
        // SAFETY: the caller's.
        unsafe { *made = address as u64 };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(address: CUdeviceptr) -> CUresult {
    answer("cuMemFree_v2", || {
        let mut context = current()?;
        context.require_no_strict_capture()?;
        // As on a GPU: what is queued may still use it.
        context.run_all()?;
        context.remove_block(address)?;
        // SAFETY: allocated there, and removed once.
        match unsafe { (source().free)(address as *mut c_void) } {
            true => Ok(()),
            false => fault(SILENT, format!("what lies around {address:#x} was written to")),
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemHostAlloc(made: *mut *mut c_void, bytes: usize, flags: u32) -> CUresult {
    answer("cuMemHostAlloc", || {
        let mut context = current()?;
        context.require_no_strict_capture()?;
        if bytes == 0 || flags > 7 {
            return fault(CUresult::CUDA_ERROR_INVALID_VALUE, format!("{bytes} bytes with flags {flags}"));
        }
        // No zeros, which might be taken for data.
        let mut memory = vec![0xa5u8; bytes].into_boxed_slice();
        let address = memory.as_mut_ptr();
        context.pinned.insert(address as u64, Pinned { bytes: memory });
        // SAFETY: the caller's.
        unsafe { *made = address.cast() };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(address: *mut c_void) -> CUresult {
    answer("cuMemFreeHost", || {
        let mut context = current()?;
        context.require_no_strict_capture()?;
        let start = address as u64;
        let Some(pinned) = context.pinned.remove(&start) else {
            return fault(CUresult::CUDA_ERROR_INVALID_VALUE, format!("{start:#x} is not page-locked memory"));
        };
        if let Some(reader) = context.reader_of(start, start + pinned.bytes.len() as u64) {
            return fault(SILENT, format!("page-locked memory is freed before {reader} has read it"));
        }
        Ok(())
    })
}
