//! clip: the global L2 norm of all gradients, and the factor that brings it down to a limit
//!
//! ```text
//! norm = sqrt(sum g^2);  factor = min(1, max_norm / (norm + 1e-6))      (torch.nn.utils.clip_grad_norm_)
//! ```
//!
//! Shapes    gradients (n) A
//! Order     partial sums of fixed blocks, folded in f64 and in order
//! Cost      4 bytes per parameter: memory bound. Both numbers stay on the device, where AdamW reads the factor

use crate::device::bindings::ENGINE_CLIP_RUN;
use crate::device::driver::engine_dtype;
use crate::device::{Purpose, Tensor};
use crate::error::Result;
use crate::launch;
use crate::ops::results::StepResults;

/// Queues the results' norm and factor; the factor is 1 when `max_norm` is 0 (no clipping), and NaN when the norm or the
/// results' loss is not finite.
pub fn clip_factor(results: &mut StepResults, gradients: &Tensor, max_norm: f64) -> Result<()> {
    let (device, n) = (gradients.device(), gradients.len() as u64);
    let runs = gradients.len().div_ceil(ENGINE_CLIP_RUN as usize);
    let mut scratch = Tensor::empty(&device.of(Purpose::Scratch), &[runs], gradients.dtype())?;
    let (driver, dtype) = (device.driver(), engine_dtype(gradients.dtype()));
    let (results, scratch, gradients) = (results.address_mut()?, scratch.address_mut()?, gradients.address());
    // SAFETY: tensors of the sizes that engine.h asks for.
    unsafe { launch!(driver, clip_factor { n }(results, scratch, gradients, n, max_norm, dtype, driver.stream())) }
}
