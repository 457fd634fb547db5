//! The kernel table as Rust sees it: one set of launchers, compiled for CUDA or for the emulator, or written in Rust.
//!
//! `kernels/engine.h` declares the table, [`bindings`](super::bindings) is bindgen's rendering of it, and
//! [`launch!`](crate::launch) calls a launcher.

use std::ffi::CStr;

use super::bindings::{engine_kernels, engine_status};
use crate::err;
use crate::error::Result;

/// The launchers of one implementation of the kernels.
#[derive(Clone, Copy)]
pub struct Kernels {
    /// The table itself; every pointer in it is set.
    pub table: &'static engine_kernels,
}

impl Kernels {
    /// The kernels as the host's C++ compiler made them; None when the build found no such compiler.
    pub fn emulated() -> Option<Self> {
        #[cfg(engine_emulated)]
        {
            // SAFETY: the function returns the address of a constant that lives as long as the program.
            Some(Self { table: unsafe { &*super::bindings::engine_kernels_emulated() } })
        }
        #[cfg(not(engine_emulated))]
        None
    }

    /// The kernels as nvcc made them; None when the build found no nvcc. They need a driver and a chip to run.
    pub fn cuda() -> Option<Self> {
        #[cfg(engine_cuda)]
        {
            // SAFETY: as above.
            Some(Self { table: unsafe { &*super::bindings::engine_kernels_cuda() } })
        }
        #[cfg(not(engine_cuda))]
        None
    }

    /// Which device they run on: `cpu`, `cuda` or `emulated`.
    pub fn device(&self) -> &'static str {
        // SAFETY: a constant C string of the table.
        unsafe { CStr::from_ptr(self.table.device) }.to_str().unwrap_or("unknown")
    }

    /// Whether a kernel's blocks may take their places before the kernel before it has ended, where chips know that.
    pub fn allow_programmatic_launch(&self, allowed: bool) {
        if let Some(allow) = self.table.allow_programmatic_launch {
            // SAFETY: sets a flag of the launchers.
            unsafe { allow(allowed) };
        }
    }

    /// An error for a status that is not OK: `op` with its shapes, and what the launcher says.
    pub fn check(&self, status: engine_status, op: &str) -> Result<()> {
        if status == engine_status::ENGINE_OK {
            return Ok(());
        }
        // SAFETY: the pointer is set in every table, and returns a C string of this thread that is copied right away.
        let said = self.table.last_error.map(|last| unsafe { CStr::from_ptr(last()) }.to_string_lossy().into_owned());
        Err(err!("{op} on `{}`: {}", self.device(), said.unwrap_or_default()))
    }
}
