//! The manual autograd tape: a list of named closures, run backwards.
//!
//! An op's forward pushes its backward, which captures what it saved; the captures are the memory bill. Gradients of
//! activations are written once and handed on (`=`; a second arrival is added), gradients of parameters accumulate
//! (`+=`) in [`Gradients`], which outlives the tape so that micro-batches add up. A tape without gradients records
//! nothing: evaluation and generation run the same ops on [`Tape::inference`].

use std::ffi::c_void;

use half::bf16;

use crate::autograd::{Gradients, Param};
use crate::device::driver::Driver;
use crate::device::{DType, Device, Element, Tensor};
use crate::error::Result;
use crate::{bail, err};

/// An activation on the tape: its value and the slot of its gradient.
#[derive(Clone, Debug)]
pub struct Var {
    pub value: Tensor,
    slot: usize,
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
    slots: usize,
    gradients: Option<&'g mut Gradients>,
    rounding: Rounding,
}

/// Whether values and gradients are rounded to bf16 where one op hands them to the next. Only the CPU does that, and
/// only to tell what plain low precision gives: the measure of what kernels may be off by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    None,
    Bf16,
}

impl Rounding {
    /// Rounds the elements of a CPU tensor in f32 that nobody else holds yet.
    pub fn apply(self, tensor: &mut Tensor) -> Result<()> {
        if self == Rounding::Bf16 && tensor.dtype() == DType::F32 {
            tensor.as_mut::<f32>()?.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
        }
        Ok(())
    }
}

/// What a backward closure works on: the gradients of activations by slot, and those of the parameters.
pub struct Backward<'a> {
    slots: Vec<Option<Tensor>>,
    gradients: &'a mut Gradients,
    rounding: Rounding,
}

impl<'g> Tape<'g> {
    /// A tape that records, for training.
    pub fn recording(device: &Device, gradients: &'g mut Gradients) -> Self {
        let device = device.clone();
        Self { device, nodes: Vec::new(), slots: 0, gradients: Some(gradients), rounding: Rounding::None }
    }

    /// A tape that records nothing, for evaluation and generation.
    pub fn inference(device: &Device) -> Tape<'static> {
        Tape { device: device.clone(), nodes: Vec::new(), slots: 0, gradients: None, rounding: Rounding::None }
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

    /// What runs the kernels; None on the CPU.
    pub fn driver(&self) -> Option<&dyn Driver> {
        self.device.driver()
    }

    /// Puts a value on the tape.
    pub fn var(&mut self, mut value: Tensor) -> Var {
        if value.is_unique() {
            self.rounding.apply(&mut value).expect("nobody else holds it");
        }
        self.slots += 1;
        Var { value, slot: self.slots - 1 }
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
        let mut backward = Backward { slots: vec![None; self.slots], gradients, rounding: self.rounding };
        for node in self.nodes.into_iter().rev() {
            (node.backward)(&mut backward).map_err(|e| e.context(format!("in the backward of `{}`", node.name)))?;
        }
        backward.gradients.check_all_touched()
    }
}

impl Backward<'_> {
    /// The gradient that has arrived at `y`, taken out of its slot; None when nothing downstream used `y`.
    pub fn take(&mut self, y: &Var) -> Option<Tensor> {
        self.slots[y.slot].take()
    }

    /// Hands `dx` to `x`: written if it is the first to arrive, else added to what is there.
    pub fn give(&mut self, x: &Var, mut dx: Tensor) -> Result<()> {
        if dx.shape() != x.value.shape() {
            bail!("internal: gradient of shape {:?} for a value of shape {:?}", dx.shape(), x.value.shape());
        }
        if dx.is_unique() {
            self.rounding.apply(&mut dx)?;
        }
        let slot = &mut self.slots[x.slot];
        match slot.take() {
            None => *slot = Some(dx),
            Some(sum) => {
                let (mut sum, term) = if sum.is_unique() { (sum, dx) } else { (dx, sum) };
                if sum.device().driver().is_some() {
                    bail!("internal: a gradient arrives twice at a value of shape {:?}", x.value.shape());
                }
                crate::dispatch!(sum.dtype(), T => crate::host::simd::add_assign(sum.as_mut::<T>()?, term.as_slice::<T>()));
                self.rounding.apply(&mut sum)?;
                *slot = Some(sum);
            }
        }
        Ok(())
    }

    /// The accumulated gradient of a parameter, to add to.
    pub fn param<T: Element>(&mut self, param: &Param) -> Result<&mut [T]> {
        self.gradients.slice(param)
    }

    /// Where the accumulated gradient of a parameter lies on the device (f32), to add to.
    pub fn param_address(&mut self, param: &Param) -> Result<*mut c_void> {
        self.gradients.address(param)
    }
}
