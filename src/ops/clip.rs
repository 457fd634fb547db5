//! clip: the global L2 norm of all gradients, and the factor that brings it down to a limit
//!
//! ```text
//! norm = sqrt(sum g^2);  factor = min(1, max_norm / (norm + 1e-6))      (torch.nn.utils.clip_grad_norm_)
//! ```
//!
//! Shapes    gradients (n) A
//! Order     partial sums of fixed blocks, folded in f64 and in order
//! Cost      4 bytes per parameter: memory bound, unless those who wrote the gradients have added up their squares. Both
//!           numbers stay on the device, where AdamW reads the factor

use std::ffi::c_void;
use std::ptr;

use crate::device::bindings::ENGINE_CLIP_RUN;
use crate::device::driver::engine_dtype;
use crate::device::{Purpose, Tensor};
use crate::error::Result;
use crate::launch;
use crate::ops::results::StepResults;

/// Queues the results' norm and factor; the factor is 1 when `max_norm` is 0 (no clipping), and NaN when the norm or the
/// results' loss is not finite.
pub fn clip_factor(results: &mut StepResults, gradients: &Tensor, max_norm: f64) -> Result<()> {
    let device = gradients.device().of(Purpose::Scratch);
    let runs = gradients.len().div_ceil(ENGINE_CLIP_RUN as usize);
    let mut squares = Tensor::empty(&device, &[runs], gradients.dtype())?;
    let (squares, n) = (squares.address_mut()?, gradients.len() as u64);
    queue(results, squares, gradients, gradients.address(), n, max_norm)
}

/// [`clip_factor`] of gradients whose sum of squares is the sum of `sums`.
pub fn clip_factor_of_sums(results: &mut StepResults, sums: &Tensor, max_norm: f64) -> Result<()> {
    queue(results, sums.address().cast_mut(), sums, ptr::null(), sums.len() as u64, max_norm)
}

/// `of`: what is read.
fn queue(
    results: &mut StepResults,
    squares: *mut c_void,
    of: &Tensor,
    gradients: *const c_void,
    n: u64,
    max_norm: f64,
) -> Result<()> {
    let (driver, dtype, results) = (of.device().driver(), engine_dtype(of.dtype()), results.address_mut()?);
    // SAFETY: tensors of the sizes that engine.h asks for; what is written of `squares` is scratch.
    unsafe { launch!(driver, clip_factor { n }(results, squares, gradients, n, max_norm, dtype, driver.stream())) }
}
