//! The manual autograd tape: a list of named closures, run backwards.
//!
//! An op's forward pushes its backward, which captures what it saved; the captures are the memory bill. Gradients of
//! activations are written once and handed on (`=`; a second arrival is added), gradients of parameters accumulate
//! (`+=`) in [`Gradients`], which outlives the tape so that micro-batches add up. A tape without gradients records
//! nothing: evaluation and generation run the same ops on [`Tape::inference`].

use std::ffi::c_void;

use crate::autograd::{Gradients, Param};
use crate::device::{DType, Device, Tensor};
use crate::error::Result;
use crate::{bail, err};

/// An activation on the tape: its value, and its number among the activations, by which its gradient is found.
#[derive(Clone, Debug)]
pub struct Var {
    pub value: Tensor,
    number: usize,
}

type Closure = Box<dyn FnOnce(&mut Backward<'_>) -> Result<()>>;

struct Node {
    name: &'static str,
    backward: Closure,
}

/// Records ops for one micro-batch.
pub struct Tape<'g> {
    device: Device,
    nodes: Vec<Node>,
    activations: usize,
    gradients: Option<&'g mut Gradients>,
    rounding: Rounding,
}

/// Whether values and gradients in f32 are rounded to bf16 where one op hands them to the next: what plain low precision
/// gives, and so the measure of what ops that compute in bf16 may be off by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    None,
    Bf16,
}

impl Rounding {
    /// The rounded tensor.
    pub fn apply(self, tensor: Tensor) -> Result<Tensor> {
        if self == Rounding::Bf16 && tensor.dtype() == DType::F32 {
            return tensor.cast(DType::Bf16)?.cast(DType::F32);
        }
        Ok(tensor)
    }
}

/// What a backward closure works on: the gradients of activations by their numbers, and those of the parameters.
pub struct Backward<'a> {
    arrived: Vec<Option<Tensor>>,
    gradients: &'a mut Gradients,
    rounding: Rounding,
}

impl<'g> Tape<'g> {
    /// A tape that records, for training.
    pub fn recording(device: &Device, gradients: &'g mut Gradients) -> Self {
        let device = device.clone();
        Self { device, nodes: Vec::new(), activations: 0, gradients: Some(gradients), rounding: Rounding::None }
    }

    /// A tape that records nothing, for evaluation and generation.
    pub fn inference(device: &Device) -> Tape<'static> {
        Tape { device: device.clone(), nodes: Vec::new(), activations: 0, gradients: None, rounding: Rounding::None }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The same tape, rounding what passes between ops.
    pub fn rounded(self, rounding: Rounding) -> Self {
        Self { rounding, ..self }
    }

    /// What is rounded between ops.
    pub fn rounding(&self) -> Rounding {
        self.rounding
    }

    /// Puts a value on the tape.
    pub fn var(&mut self, value: Tensor) -> Var {
        self.activations += 1;
        Var { value, number: self.activations - 1 }
    }

    /// Puts the result of an op on the tape.
    pub fn output(&mut self, value: Tensor) -> Result<Var> {
        let value = self.rounding.apply(value)?;
        Ok(self.var(value))
    }

    /// Whether backward closures are kept.
    pub fn is_recording(&self) -> bool {
        self.gradients.is_some()
    }

    /// The parameters' gradients while recording: for an op that computes its gradient together with its value.
    pub fn gradients(&mut self) -> Option<&mut Gradients> {
        self.gradients.as_deref_mut()
    }

    /// Keeps the backward of op `name`; drops it, and with it what it captured, when nothing is recorded.
    pub fn push(&mut self, name: &'static str, backward: impl FnOnce(&mut Backward<'_>) -> Result<()> + 'static) {
        if self.is_recording() {
            self.nodes.push(Node { name, backward: Box::new(backward) });
        }
    }

    /// Runs every closure in reverse. The op that computed the loss has seeded it.
    ///
    /// An error when an op fails, or when a trainable parameter got no gradient at all.
    pub fn backward(self) -> Result<()> {
        let gradients = self.gradients.ok_or_else(|| err!("internal: backward on a tape that records nothing"))?;
        gradients.begin_backward();
        let mut backward = Backward { arrived: vec![None; self.activations], gradients, rounding: self.rounding };
        for node in self.nodes.into_iter().rev() {
            (node.backward)(&mut backward).map_err(|e| e.context(format!("in the backward of `{}`", node.name)))?;
        }
        backward.gradients.add_up_vectors()?;
        backward.gradients.check_all_touched()
    }
}

impl Backward<'_> {
    /// Takes the gradient that has arrived at `y`; None when nothing downstream used `y`.
    pub fn take(&mut self, y: &Var) -> Option<Tensor> {
        self.arrived[y.number].take()
    }

    /// Hands `dx` to `x`: written if it is the first to arrive, else added to what is there.
    pub fn give(&mut self, x: &Var, dx: Tensor) -> Result<()> {
        if dx.shape() != x.value.shape() {
            bail!("internal: gradient of shape {:?} for a value of shape {:?}", dx.shape(), x.value.shape());
        }
        let dx = self.rounding.apply(dx)?;
        let arrived = &mut self.arrived[x.number];
        *arrived = Some(match arrived.take() {
            None => dx,
            Some(sum) => {
                let (mut sum, term) = if sum.is_unique() { (sum, dx) } else { (dx, sum) };
                sum.add(&term)?;
                self.rounding.apply(sum)?
            }
        });
        Ok(())
    }

    /// Where the accumulated gradient of a parameter lies on the device, in A, to add to; null for a frozen one.
    pub fn param(&mut self, param: &Param) -> Result<*mut c_void> {
        self.gradients.address(param)
    }

    /// What is rounded between ops.
    pub fn rounding(&self) -> Rounding {
        self.rounding
    }

    /// The gradients of the parameters.
    pub fn gradients(&mut self) -> &mut Gradients {
        self.gradients
    }
}
