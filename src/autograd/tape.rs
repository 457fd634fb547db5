//! The manual autograd tape: a list of named closures, run backwards.
//!
//! An op's forward pushes its backward, which captures what it saved; the captures are the memory bill. Gradients of
//! activations are written once and handed on (`=`; a second arrival is added), gradients of parameters accumulate
//! (`+=`) in [`Gradients`], which outlives the tape so that micro-batches add up. A tape without gradients records
//! nothing: evaluation and generation run the same ops on [`Tape::inference`].
//!
//! A tape that recomputes keeps the inputs of a part of the forward ([`Tape::checkpointed`]), and of what is inside nothing, or what is
//! expensive ([`Tape::kept`]): its backward runs the part again, on a tape of its own, whose closures then run in the place of those that
//! were not kept. So every gradient gets its terms in the same order, and is the same to the bit.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::rc::Rc;

use crate::autograd::{Gradients, Param};
use crate::device::{DType, Device, Tensor, WeakTensor};
use crate::error::Result;
use crate::{bail, err};

/// An activation on the tape: its value, and where its gradient arrives.
#[derive(Clone, Debug)]
pub struct Var {
    pub value: Tensor,
    number: usize,
}

impl Var {
    /// Where its gradient arrives: what a closure keeps that does not read the value.
    pub fn arrival(&self) -> Arrival {
        Arrival { number: self.number, shape: self.value.shape().into() }
    }
}

/// Where the gradient of an activation arrives, without its value: holds no memory of the device.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Among the activations.
    number: usize,
    shape: Rc<[usize]>,
}

impl From<&Var> for Arrival {
    fn from(x: &Var) -> Self {
        x.arrival()
    }
}

impl From<&Arrival> for Arrival {
    fn from(x: &Arrival) -> Self {
        x.clone()
    }
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
    recompute: Recompute,
    run: Run,
}

/// What the backward computes again of the parts of a forward that are [`checkpointed`](Tape::checkpointed), to hold less memory until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recompute {
    Nothing,
    /// What costs little: all but what ops have [`kept`](Tape::kept), products and attention.
    Selective,
    /// Everything but what somebody holds anyway: what a part has given to others.
    Full,
}

/// Which run of a part of the forward a tape is in.
enum Run {
    /// The only one.
    Only,
    /// The first of two, and the results that ops asked to keep, in their order.
    First(Vec<Kept>),
    /// The second, and what is left of those that ops have not asked for yet.
    Second(VecDeque<Option<Vec<Tensor>>>),
}

/// Results of an op.
enum Kept {
    Held(Vec<Tensor>),
    /// By others, perhaps.
    NotHeld(Vec<WeakTensor>),
}

impl Kept {
    fn left(self) -> Option<Vec<Tensor>> {
        match self {
            Self::Held(results) => Some(results),
            Self::NotHeld(results) => results.into_iter().map(WeakTensor::upgrade).collect(),
        }
    }
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
        gradients.begin_tape();
        Self::going_on(device, gradients)
    }

    /// A tape that records more for the same gradients.
    fn going_on(device: &Device, gradients: &'g mut Gradients) -> Self {
        Self { gradients: Some(gradients), ..Self::inference(device) }
    }

    /// A tape that records nothing, for evaluation and generation.
    pub fn inference(device: &Device) -> Self {
        let (device, rounding, recompute) = (device.clone(), Rounding::None, Recompute::Nothing);
        Self { device, nodes: Vec::new(), activations: 0, gradients: None, rounding, recompute, run: Run::Only }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The same tape, rounding what passes between ops.
    pub fn rounded(self, rounding: Rounding) -> Self {
        Self { rounding, ..self }
    }

    /// The same tape, whose backward computes so much of what is [`checkpointed`](Self::checkpointed) again.
    pub fn recomputing(self, recompute: Recompute) -> Self {
        Self { recompute, ..self }
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

    /// Whether there will be a backward: this run records, or one that comes after it.
    pub fn is_for_backward(&self) -> bool {
        self.is_recording() || matches!(self.run, Run::First(_))
    }

    /// Whether somebody wants what an op finds on the way to its results: not in the first of two runs of which the second does all again.
    pub fn keeps_results(&self) -> bool {
        self.is_recording() || (self.is_for_backward() && self.recompute == Recompute::Selective)
    }

    /// What `make` gives, which is expensive: a part of the forward that is run again has it from the first run, if that is selective or
    /// somebody else holds it.
    pub fn kept<const N: usize>(&mut self, make: impl FnOnce() -> Result<[Tensor; N]>) -> Result<[Tensor; N]> {
        match &mut self.run {
            Run::Only => make(),
            Run::First(kept) => {
                let made = make()?;
                kept.push(match self.recompute {
                    Recompute::Selective => Kept::Held(made.to_vec()),
                    _ => Kept::NotHeld(made.iter().map(Tensor::downgrade).collect()),
                });
                Ok(made)
            }
            Run::Second(kept) => match kept.pop_front() {
                Some(Some(known)) => {
                    known.try_into().map_err(|_| err!("internal: an op asks for other results than before"))
                }
                Some(None) => make(),
                None => Err(err!("internal: an op asks for more than it has kept")),
            },
        }
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

    /// Runs a part of the forward. A tape that recomputes keeps its inputs, what `part` itself holds, and what was [`kept`](Self::kept); its
    /// backward runs the part again. `part` must compute the same whenever it is run, and what it uses of the tape it must be given as inputs.
    pub fn checkpointed<const I: usize, const O: usize>(
        &mut self,
        name: &'static str,
        inputs: [Var; I],
        part: impl Fn(&mut Tape<'_>, [Var; I]) -> Result<[Var; O]> + 'static,
    ) -> Result<[Var; O]> {
        if self.recompute == Recompute::Nothing || !self.is_recording() {
            return part(self, inputs);
        }
        let (gradients, run) = (self.gradients.take(), std::mem::replace(&mut self.run, Run::First(Vec::new())));
        let outputs = part(self, inputs.clone());
        self.gradients = gradients;
        let first = std::mem::replace(&mut self.run, run);
        let outputs = outputs?;
        let Run::First(kept) = first else { bail!("internal: a part has left its run") };
        let second = Run::Second(kept.into_iter().map(Kept::left).collect());
        let (device, arrivals) = (self.device.clone(), outputs.each_ref().map(Var::arrival));
        self.push(name, move |ctx| ctx.run_again(&device, &arrivals, second, |tape| part(tape, inputs)));
        Ok(outputs)
    }

    /// Runs every closure in reverse. The op that computed the loss has seeded it.
    ///
    /// An error when an op fails, or when a trainable parameter got no gradient at all.
    pub fn backward(self) -> Result<()> {
        let gradients = self.gradients.ok_or_else(|| err!("internal: backward on a tape that records nothing"))?;
        let mut backward = Backward { arrived: vec![None; self.activations], gradients, rounding: self.rounding };
        backward.run(self.nodes)?;
        backward.gradients.finish()?;
        backward.gradients.check_all_touched()
    }
}

impl Backward<'_> {
    /// Takes the gradient that has arrived at `y`; None when nothing downstream used `y`.
    pub fn take(&mut self, y: impl Into<Arrival>) -> Option<Tensor> {
        self.arrived[y.into().number].take()
    }

    /// Hands `dx` to `x`: written if it is the first to arrive, else added to what is there.
    pub fn give(&mut self, x: impl Into<Arrival>, dx: Tensor) -> Result<()> {
        let x = x.into();
        if *dx.shape() != *x.shape {
            bail!("internal: gradient of shape {:?} for a value of shape {:?}", dx.shape(), x.shape);
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

    /// Runs closures in reverse.
    fn run(&mut self, nodes: Vec<Node>) -> Result<()> {
        for Node { name, backward } in nodes.into_iter().rev() {
            backward(self).map_err(|e| e.context(format!("in the backward of `{name}`")))?;
        }
        Ok(())
    }

    /// Runs a part of the forward that gave `outputs` once more, now recording, and then its closures: what has arrived at `outputs` goes to
    /// those of this run.
    fn run_again<const O: usize>(
        &mut self,
        device: &Device,
        outputs: &[Arrival; O],
        run: Run,
        part: impl FnOnce(&mut Tape<'_>) -> Result<[Var; O]>,
    ) -> Result<()> {
        let arrived = outputs.each_ref().map(|y| self.take(y));
        if arrived.iter().all(Option::is_none) {
            return Ok(());
        }
        // Activations of this run are numbered on from those of the whole forward, among which its inputs are.
        let known = self.arrived.len();
        let mut tape = Tape::going_on(device, self.gradients).rounded(self.rounding);
        (tape.activations, tape.run) = (known, run);
        let outputs = part(&mut tape)?.map(|y| y.arrival());
        let Tape { nodes, activations, run, .. } = tape;
        if matches!(&run, Run::Second(kept) if !kept.is_empty()) {
            bail!("internal: a part has kept what its second run does not ask for");
        }
        self.arrived.resize(activations, None);
        for (y, dy) in outputs.iter().zip(arrived) {
            dy.map_or(Ok(()), |dy| self.give(y, dy))?;
        }
        self.run(nodes)?;
        self.arrived.truncate(known);
        self.gradients.write_waiting() // what waits holds memory
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
