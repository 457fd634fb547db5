//! clip: the global L2 norm of all gradients, and the factor that brings it down to a limit
//!
//! ```text
//! norm = sqrt(sum g^2);  factor = min(1, max_norm / (norm + 1e-6))      (torch.nn.utils.clip_grad_norm_)
//! ```
//!
//! Order     partial sums of fixed blocks in f64, folded in order
//! Cost      4 bytes per parameter: memory bound

use crate::device::Tensor;
use crate::dispatch;
use crate::host::simd::{Real, sum_blocks, sum_of};

/// L2 norm of a flat gradient.
pub fn global_norm(gradients: &Tensor) -> f64 {
    dispatch!(gradients.dtype(), T => {
        sum_blocks(gradients.as_slice::<T>(), |_, block| {
            block.chunks(1024).map(|c| sum_of(c.len(), |i| c[i] * c[i]).to_f64()).sum::<f64>()
        })
    })
    .sqrt()
}

/// The factor for gradients of this norm; 1 when `max_norm` is 0 (no clipping).
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 }
}

/// The norm and the factor on a device, where they stay.
pub mod device {
    use crate::device::{DType, Purpose, Tensor};
    use crate::err;
    use crate::error::Result;
    use crate::launch;

    /// Gradients of one partial sum, as kernels/clip.cu has it.
    const RUN: usize = 16_384;

    /// Queues `*norm` and `*factor`; the factor is NaN when the norm or `*loss` is not finite.
    ///
    /// # Safety
    /// The three addresses are memory of the gradients' device.
    pub unsafe fn queue(
        (norm, factor): (*mut f32, *mut f32),
        gradients: &Tensor,
        loss: *const f64,
        max_norm: f64,
    ) -> Result<()> {
        let driver = gradients.device().driver().ok_or_else(|| err!("internal: no device to clip on"))?;
        let n = gradients.len() as u64;
        let scratch = gradients.device().of(Purpose::Scratch);
        let mut scratch = Tensor::empty(&scratch, &[gradients.len().div_ceil(RUN)], DType::F32)?;
        let (scratch, gradients, stream) = (scratch.address_mut()?.cast(), gradients.address().cast(), driver.stream());
        // SAFETY: the caller's promise, and tensors of the sizes that engine.h asks for.
        unsafe {
            launch!(
                driver.kernels(),
                clip_factor { n }(norm, factor, scratch, gradients, loss, n, max_norm as f32, stream)
            )
        }
    }
}
