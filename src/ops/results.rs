//! What a step measures: numbers that stay on the device until the host reads them once, at the end.

use crate::device::bindings::engine_step_results;
use crate::device::driver::Access;
use crate::device::{DType, Device, Tensor};
use crate::error::Result;

/// Numbers of `engine_step_results`, all f64.
const NUMBERS: usize = size_of::<engine_step_results>() / size_of::<f64>();

/// One `engine_step_results` of kernels/engine.h, on a device.
pub struct StepResults {
    numbers: Tensor,
}

/// Sums over the scored tokens of a batch; divide by `scored` for means.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSums {
    /// Sum of w * (-log p(target)), in nats.
    pub loss: f64,
    /// Sum of w * entropy of the predicted distribution, in nats.
    pub entropy: f64,
    /// Sum of w where the target has the largest logit (the first of equals).
    pub correct: f64,
    /// Sum of w: the number of scored tokens.
    pub scored: f64,
}

impl std::ops::AddAssign for LossSums {
    fn add_assign(&mut self, other: Self) {
        self.loss += other.loss;
        self.entropy += other.entropy;
        self.correct += other.correct;
        self.scored += other.scored;
    }
}

impl From<engine_step_results> for LossSums {
    fn from(results: engine_step_results) -> Self {
        let engine_step_results { loss, entropy, correct, scored, .. } = results;
        Self { loss, entropy, correct, scored }
    }
}

impl StepResults {
    /// All numbers 0.
    pub fn zeros(device: &Device) -> Result<Self> {
        Ok(Self { numbers: Tensor::zeros(device, &[NUMBERS], DType::F64)? })
    }

    /// Queues zeros for all numbers.
    pub fn zero(&mut self) -> Result<()> {
        self.numbers.zero()
    }

    /// For a launcher that reads.
    pub fn address(&self) -> *const engine_step_results {
        self.numbers.address().cast()
    }

    /// For a launcher that adds to them or writes.
    pub fn address_mut(&mut self) -> Result<*mut engine_step_results> {
        Ok(self.numbers.address_to(NUMBERS, Access::Update)?.cast())
    }

    /// The numbers, after all that is queued.
    pub fn read(&self) -> Result<engine_step_results> {
        let numbers = self.numbers.download::<f64>()?;
        let [loss, entropy, correct, scored, grad_norm, clip_factor]: [f64; NUMBERS] =
            numbers.try_into().expect("as many as were allocated");
        Ok(engine_step_results { loss, entropy, correct, scored, grad_norm, clip_factor })
    }
}
