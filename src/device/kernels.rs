//! The kernel table as Rust sees it: one set of launchers, compiled for CUDA or for the emulator, or written in Rust.
//!
//! `kernels/engine.h` declares the table, [`bindings`](super::bindings) is bindgen's rendering of it, and
//! [`launch!`](crate::launch) calls a launcher and turns its status into an error that names the op and its shapes.

use std::ffi::CStr;

use super::bindings::{engine_kernels, engine_status};
use super::driver::Driver;
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

/// Turns a launcher's status into an error that names the op and its sizes.
pub fn launched(driver: &dyn Driver, status: engine_status, op: &str, sizes: &[(&str, u64)]) -> Result<()> {
    if status == engine_status::ENGINE_OK {
        return driver.after_launch(op);
    }
    let sizes: Vec<String> = sizes.iter().map(|(name, size)| format!("{} {size}", name.to_uppercase())).collect();
    driver.kernels().check(status, &format!("{op} of {}", sizes.join(", ")))
}

/// `launch!(driver, rmsnorm_forward { n, d }(y, rstd, ..))`: calls a launcher; an error names it and the sizes in braces.
///
/// To be used in an `unsafe` block: the pointers must be memory of the device as `kernels/engine.h` describes it.
#[macro_export]
macro_rules! launch {
    ($driver:expr, $op:ident { $($size:ident),* }($($argument:expr),* $(,)?)) => {{
        let driver: &dyn $crate::device::driver::Driver = $driver;
        let launcher = driver.kernels().table.$op.expect("the table is complete");
        let status = launcher($($argument),*);
        $crate::device::kernels::launched(driver, status, stringify!($op), &[$((stringify!($size), $size as u64)),*])
    }};
}
