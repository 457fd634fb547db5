//! A model's parameters: one flat run of numbers, in the order of the parameter table.
//!
//! Flat, because then clipping and AdamW are one pass, a checkpoint is one buffer, and matrices that are adjacent in
//! the table (q, k, v; gate, up) are one fused matrix without a copy.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use super::masters::{Masters, WeightsToUpdate};
use super::round_blocks::{BlockFormat, RoundBlocks};
use crate::device::{DType, Device, Tensor};
use crate::err;
use crate::error::Result;

/// One parameter tensor, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamSpec {
    /// Hugging Face's name.
    pub name: String,
    /// Rows first: a linear layer is (out, in).
    pub shape: Vec<usize>,
    /// Whether weight decay applies: matrices yes, norms no.
    pub decay: bool,
}

impl ParamSpec {
    pub fn new(name: String, shape: &[usize]) -> Self {
        Self { name, shape: shape.to_vec(), decay: shape.len() == 2 }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True when a size is 0, which no checked config allows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where a parameter lies in the flat run.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub name: String,
    pub shape: Vec<usize>,
    pub offset: usize,
    /// Whether weight decay applies (matrices, not norms).
    pub decay: bool,
}

impl Span {
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.shape.iter().product::<usize>()
    }
}

/// Where an op finds its parameter: a parameter, or several adjacent ones fused. Made once, by name; [`Params::at`] gives
/// the values.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamHandle {
    /// Name of the (first) parameter.
    name: Rc<str>,
    shape: Vec<usize>,
    offset: usize,
}

impl ParamHandle {
    /// Name of the (first) parameter.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A parameter, or several adjacent ones fused, as an op sees it.
#[derive(Clone, Debug)]
pub struct Param {
    /// Name of the (first) parameter.
    pub name: Rc<str>,
    /// Its values in the compute type, a view into the flat run.
    pub value: Tensor,
    offset: usize,
    is_frozen: bool,
}

impl Param {
    pub fn shape(&self) -> &[usize] {
        self.value.shape()
    }

    pub fn dtype(&self) -> DType {
        self.value.dtype()
    }

    /// Whether it is not trained: it has no gradient.
    pub fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    /// Where it lies in the flat run.
    pub(super) fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.value.len()
    }
}

/// Parameters of a model that are trained together, or not at all.
pub struct Params {
    masters: Masters,
    pub(super) spans: Rc<[Span]>,
    index: HashMap<String, usize>,
    is_frozen: bool,
}

impl Params {
    /// Parameters laid out as `specs` say; `values` holds them back to back.
    pub fn new(specs: &[ParamSpec], values: Tensor) -> Result<Self> {
        let mut spans = Vec::with_capacity(specs.len());
        let mut offset = 0;
        for spec in specs {
            let span = Span { name: spec.name.clone(), shape: spec.shape.clone(), offset, decay: spec.decay };
            offset = span.range().end;
            spans.push(span);
        }
        if offset != values.len() {
            return Err(err!("internal: {} values for {offset} parameters", values.len()));
        }
        let index = spans.iter().enumerate().map(|(i, s)| (s.name.clone(), i)).collect();
        Ok(Self { masters: Masters::Whole(values), spans: spans.into(), index, is_frozen: false })
    }

    /// The table with offsets.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The same parameters, computed with in `dtype`. In bf16 they are kept in halves, rounded to nearest until AdamW has updated
    /// them.
    pub fn computed_in(self, dtype: DType) -> Result<Self> {
        Ok(Self { masters: self.masters.computed_in(dtype)?, ..self })
    }

    /// The same parameters, computed with as a file of these formats would give them back, in `dtype`; gradients go to the master
    /// values.
    ///
    /// # Panics
    /// When the formats are not one for each parameter, or rows are no whole blocks.
    pub fn rounded_in(self, dtype: DType, formats: &[BlockFormat]) -> Result<Self> {
        let shapes: Vec<&[usize]> = self.spans.iter().map(|span| &span.shape[..]).collect();
        let rounding = RoundBlocks::new(self.device(), &shapes, formats)?;
        Ok(Self { masters: self.masters.rounded_in(dtype, rounding)?, ..self })
    }

    /// What ops compute in is rounded to.
    pub fn rounding(&self) -> Option<&RoundBlocks> {
        self.masters.rounding()
    }

    /// The same parameters, not to be trained: values in `dtype` are all that is kept of them.
    pub fn frozen_in(self, dtype: DType) -> Result<Self> {
        Ok(Self { masters: self.masters.frozen_in(dtype)?, is_frozen: true, ..self })
    }

    /// The master values, one flat run; of frozen parameters, in the type that ops compute in. Put together for the caller where
    /// they are kept in halves; else shared, and while they are, nobody can update them.
    pub fn masters(&self) -> Result<Tensor> {
        self.masters.joined()
    }

    /// [`masters`](Self::masters), in `room` where they have to be put together: as many numbers of their type.
    pub fn masters_in<'a>(&'a self, room: &'a mut Tensor) -> Result<&'a Tensor> {
        self.masters.joined_in(room)
    }

    /// Gives them the master values that they had when update `step` was the last, which `fill` writes, in `room` as above. After
    /// an error they are what they were, or of no use.
    pub fn set_masters(
        &mut self,
        step: u64,
        room: &mut Tensor,
        fill: impl FnOnce(&mut [f32]) -> Result<()>,
    ) -> Result<()> {
        self.masters.fill(step, room, fill)
    }

    /// What ops compute in becomes what it was after update `step`, in `room` as above; with 0, what is rounded to nearest: as the
    /// parameters were loaded and will be saved.
    pub fn round_as_after(&mut self, step: u64, room: &mut Tensor) -> Result<()> {
        self.masters.round_as_after(step, room)
    }

    /// What ops compute in.
    pub fn dtype(&self) -> DType {
        self.masters.computed().dtype()
    }

    /// What master values, gradients and moments are of.
    pub fn master_dtype(&self) -> DType {
        self.masters.dtype()
    }

    /// Where the parameters are.
    pub fn device(&self) -> &Device {
        self.masters.computed().device()
    }

    /// What an update changes.
    pub fn for_update(&mut self) -> WeightsToUpdate<'_> {
        self.masters.for_update()
    }

    /// Update `step` has changed them.
    pub fn updated(&mut self, step: u64) {
        self.masters.updated(step);
    }

    /// The last update that has changed them, by whose number the copy is rounded that ops compute in, or 0; None where there is no
    /// such copy.
    pub fn split_by(&self) -> Option<u64> {
        self.masters.split_by()
    }

    /// Makes what is rounded to blocks anew, if anything is.
    pub fn round_to_blocks(&mut self) -> Result<()> {
        self.masters.round_to_blocks()
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.masters.computed().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is a parameter of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// The handle of the parameter of this name.
    ///
    /// # Panics
    /// When there is none: names come from the table itself.
    pub fn handle(&self, name: &str) -> ParamHandle {
        self.fused_handle(&[name])
    }

    /// The handle of matrices that follow one another in the table, as one with their rows on top of each other.
    ///
    /// # Panics
    /// When they are not adjacent or their columns differ.
    pub fn fused_handle(&self, names: &[&str]) -> ParamHandle {
        let spans: Vec<&Span> = names.iter().map(|name| &self.spans[self.index[*name]]).collect();
        assert!(spans.windows(2).all(|w| w[0].range().end == w[1].offset && w[0].shape[1..] == w[1].shape[1..]));
        let mut shape = spans[0].shape.clone();
        shape[0] = spans.iter().map(|s| s.shape[0]).sum();
        ParamHandle { name: spans[0].name.as_str().into(), shape, offset: spans[0].offset }
    }

    /// The parameter of a handle of these parameters, as they are now. While it lives, they cannot be updated.
    pub fn at(&self, handle: &ParamHandle) -> Param {
        let value = self.masters.computed().view(handle.offset, &handle.shape);
        Param { name: handle.name.clone(), value, offset: handle.offset, is_frozen: self.is_frozen }
    }

    /// The parameter of this name.
    ///
    /// # Panics
    /// As [`Params::handle`].
    pub fn get(&self, name: &str) -> Param {
        self.at(&self.handle(name))
    }

    /// A zeroed tensor as long as the flat run: an optimizer moment.
    pub fn zeros(&self, device: &Device) -> Result<Tensor> {
        Tensor::zeros(device, &[self.len()], self.master_dtype())
    }
}
