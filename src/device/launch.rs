//! How an op calls a launcher of its device.

use super::bindings::engine_status;
use super::driver::Driver;
use crate::error::Result;

/// Turns a launcher's status into an error that names the op and its sizes.
pub fn launched(driver: &dyn Driver, status: engine_status, op: &str, sizes: &[(&str, u64)]) -> Result<()> {
    if status == engine_status::ENGINE_OK {
        return driver.after_launch(op, sizes);
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
        $crate::device::launch::launched(driver, status, stringify!($op), &[$((stringify!($size), $size as u64)),*])
    }};
}
