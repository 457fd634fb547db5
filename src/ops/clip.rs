//! clip: the global L2 norm of all gradients, and the factor that brings it down to a limit
//!
//! ```text
//! norm = sqrt(sum g^2);  factor = min(1, max_norm / (norm + 1e-6))      (torch.nn.utils.clip_grad_norm_)
//! ```
//!
//! Order     partial sums of fixed blocks in f64, folded in order
//! Cost      4 bytes per parameter: memory bound

use crate::backend::cpu::{Real, sum_blocks, sum_of};
use crate::dispatch;
use crate::tensor::Tensor;

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
