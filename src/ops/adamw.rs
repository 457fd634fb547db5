//! adamw: decoupled weight decay Adam (torch.optim.AdamW) over a flat run of parameters
//!
//! ```text
//! g' = clip * g;  m = b1 m + (1 - b1) g';  v = b2 v + (1 - b2) g'^2
//! p = p (1 - lr decay) - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps);  g = 0
//! ```
//!
//! Numerics  master weights and moments in f32 (or f64), whatever the compute type
//! Order     elementwise
//! Cost      32 bytes per parameter: memory bound. The gradient is zeroed in the same pass

use crate::device::Tensor;
use crate::error::Result;
use crate::{autograd::Span, dispatch};

/// What one update needs beside the tensors.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    pub learning_rate: f64,
    pub betas: (f64, f64),
    pub eps: f64,
    pub weight_decay: f64,
    /// Number of this update, from 1.
    pub step: u64,
    /// Factor on the gradient, from clipping.
    pub clip: f64,
}

/// The flat tensors of one update, all of one length and dtype.
pub struct AdamWState<'a> {
    pub params: &'a mut Tensor,
    pub gradients: &'a mut Tensor,
    pub m: &'a mut Tensor,
    pub v: &'a mut Tensor,
}

/// One update of every parameter; `spans` say which of them decay.
pub fn adamw(state: AdamWState<'_>, spans: &[Span], hyper: &AdamW) -> Result<()> {
    let AdamWState { params, gradients, m, v } = state;
    dispatch!(params.dtype(), T => {
        let (p, g, m, v) = (params.as_mut::<T>()?, gradients.as_mut()?, m.as_mut()?, v.as_mut()?);
        for span in spans {
            let r = span.range();
            let step = cpu::Step::<T>::new(hyper, span.decay);
            step.update(&mut p[r.clone()], &mut g[r.clone()], &mut m[r.clone()], &mut v[r]);
        }
    });
    Ok(())
}

/// The update on a device: what stays between steps, and the kernel.
pub mod device {
    use super::AdamW;
    use crate::autograd::{Params, Span};
    use crate::device::bindings::engine_adamw_step;
    use crate::device::{DType, Device, Tensor};
    use crate::err;
    use crate::error::Result;
    use crate::launch;

    /// Where decay begins and ends, and the numbers of the next step, in device memory.
    pub struct Plan {
        starts: Tensor,
        decays: Tensor,
        groups: usize,
        step: Tensor,
    }

    impl Plan {
        /// Neighbours of one decay are one group.
        pub fn new(device: &Device, spans: &[Span], weight_decay: f64) -> Result<Self> {
            let (mut starts, mut decays) = (Vec::new(), Vec::new());
            for group in spans.chunk_by(|a, b| a.decay == b.decay) {
                starts.push(group[0].offset as u64);
                decays.push(if group[0].decay { weight_decay as f32 } else { 0.0 });
            }
            starts.push(spans.last().map_or(0, |span| span.range().end) as u64);
            let words: Vec<u32> = starts.iter().flat_map(|&x| [x as u32, (x >> 32) as u32]).collect();
            let mut plan = Self {
                starts: Tensor::empty(device, &[words.len()], DType::U32)?,
                decays: Tensor::empty(device, &[decays.len()], DType::F32)?,
                groups: decays.len(),
                step: Tensor::empty(device, &[size_of::<engine_adamw_step>() / size_of::<f32>()], DType::F32)?,
            };
            plan.starts.upload(&words)?;
            plan.decays.upload(&decays)?;
            Ok(plan)
        }

        /// Sends the numbers of the next step; its constants are computed in f64.
        pub fn set(&mut self, hyper: &AdamW) -> Result<()> {
            let AdamW { learning_rate: lr, betas: (b1, b2), eps, step, .. } = *hyper;
            let (rate, root) = (lr / (1.0 - b1.powi(step as i32)), 1.0 / (1.0 - b2.powi(step as i32)).sqrt());
            self.step.upload(&[lr, b1, b2, eps, rate, root].map(|x| x as f32))
        }

        /// Queues the update by gradients times `*factor`; nothing happens when that is NaN.
        ///
        /// # Safety
        /// The factor is memory of the parameters' device.
        pub unsafe fn queue(
            &self,
            params: &mut Params,
            gradients: &mut Tensor,
            (m, v): (&mut Tensor, &mut Tensor),
            factor: *const f32,
        ) -> Result<()> {
            let device = m.device().clone();
            let driver = device.driver().ok_or_else(|| err!("internal: no device to update on"))?;
            let (values, copy) = params.values_and_copy();
            let n = values.len() as u64;
            let copy = copy.map_or(Ok(std::ptr::null_mut()), Tensor::address_mut)?;
            let (values, gradients) = (values.address_mut()?.cast(), gradients.address_mut()?.cast());
            let (m, v) = (m.address_mut()?.cast(), v.address_mut()?.cast());
            let (step, starts) = (self.step.address().cast(), self.starts.address().cast());
            let (decays, groups, stream) = (self.decays.address().cast(), self.groups as u32, driver.stream());
            // SAFETY: the caller's promise; flat runs of n elements; the plan's arrays are of these spans.
            unsafe {
                launch!(
                    driver.kernels(),
                    adamw { n }(values, m, v, gradients, copy, factor, step, starts, decays, groups, n, stream)
                )
            }
        }
    }
}

mod cpu {
    use rayon::prelude::*;

    use super::AdamW;
    use crate::host::simd::{BLOCK, Real, vectorized};

    pub struct Step<T> {
        keep: T,
        b1: (T, T),
        b2: (T, T),
        rate: T,
        root: T,
        eps: T,
        clip: T,
    }

    impl<T: Real> Step<T> {
        pub fn new(hyper: &AdamW, decay: bool) -> Self {
            let AdamW { learning_rate: lr, betas: (b1, b2), step, .. } = *hyper;
            let decay = if decay { hyper.weight_decay } else { 0.0 };
            let real = T::from_f64;
            Self {
                keep: real(1.0 - lr * decay),
                b1: (real(b1), real(1.0 - b1)),
                b2: (real(b2), real(1.0 - b2)),
                rate: real(lr / (1.0 - b1.powi(step as i32))),
                root: real(1.0 / (1.0 - b2.powi(step as i32)).sqrt()),
                eps: real(hyper.eps),
                clip: real(hyper.clip),
            }
        }

        pub fn update(&self, p: &mut [T], g: &mut [T], m: &mut [T], v: &mut [T]) {
            let blocks = p.par_chunks_mut(BLOCK).zip(g.par_chunks_mut(BLOCK));
            let blocks = blocks.zip(m.par_chunks_mut(BLOCK).zip(v.par_chunks_mut(BLOCK)));
            blocks.for_each(|((p, g), (m, v))| vectorized(|| self.block(p, g, m, v)));
        }

        #[inline(always)]
        fn block(&self, p: &mut [T], g: &mut [T], m: &mut [T], v: &mut [T]) {
            let n = p.len();
            let (g, m, v) = (&mut g[..n], &mut m[..n], &mut v[..n]);
            for i in 0..n {
                let gi = g[i] * self.clip;
                let mi = self.b1.0 * m[i] + self.b1.1 * gi;
                let vi = self.b2.0 * v[i] + self.b2.1 * gi * gi;
                (g[i], m[i], v[i]) = (T::ZERO, mi, vi);
                p[i] = p[i] * self.keep - self.rate * mi / (vi.sqrt() * self.root + self.eps);
            }
        }
    }
}
