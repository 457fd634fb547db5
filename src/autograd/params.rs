//! A model's parameters: one flat run of numbers, in the order of the parameter table.
//!
//! Flat, because then clipping and AdamW are one pass, a checkpoint is one buffer, and matrices that are adjacent in
//! the table (q, k, v; gate, up) are one fused matrix without a copy.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

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
    /// The flat run of master values; of frozen parameters, in the type that ops compute in.
    pub values: Tensor,
    /// What ops compute in, when that is something else: of another type, or rounded.
    compute: Option<Tensor>,
    /// What `compute` is rounded to.
    rounding: Option<RoundBlocks>,
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
        Ok(Self { values, compute: None, rounding: None, spans: spans.into(), index, is_frozen: false })
    }

    /// The table with offsets.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The same parameters, computed with in `dtype`: a copy is kept beside the master values and renewed by AdamW.
    pub fn computed_in(mut self, dtype: DType) -> Result<Self> {
        self.compute = if dtype == self.values.dtype() { None } else { Some(self.values.cast(dtype)?) };
        Ok(self)
    }

    /// The same parameters, computed with as a file of these formats would give them back, in `dtype`; gradients go to the master
    /// values.
    ///
    /// # Panics
    /// When the formats are not one for each parameter, or rows are no whole blocks.
    pub fn rounded_in(mut self, dtype: DType, formats: &[BlockFormat]) -> Result<Self> {
        let device = self.values.device();
        let shapes: Vec<&[usize]> = self.spans.iter().map(|span| &span.shape[..]).collect();
        self.rounding = Some(RoundBlocks::new(device, &shapes, formats)?);
        self.compute = Some(Tensor::empty(device, &[self.len()], dtype)?);
        self.round_copy()?;
        Ok(self)
    }

    /// What ops compute in is rounded to.
    pub fn rounding(&self) -> Option<&RoundBlocks> {
        self.rounding.as_ref()
    }

    /// The same parameters, not to be trained: values in `dtype` are all that is kept of them.
    pub fn frozen_in(self, dtype: DType) -> Result<Self> {
        let values = if dtype == self.values.dtype() { self.values } else { self.values.cast(dtype)? };
        Ok(Self { values, compute: None, rounding: None, is_frozen: true, ..self })
    }

    /// Makes the copy anew from the master values, in place: as AdamW left it after update `step`, or with None rounded to
    /// nearest, as it was loaded and will be saved. Nothing happens where there is no copy; one that is rounded to blocks is the
    /// same after every step.
    pub fn renew_copy(&mut self, step: Option<u64>) -> Result<()> {
        match (&mut self.compute, step) {
            (None, _) => Ok(()),
            (Some(_), _) if self.rounding.is_some() => self.round_copy(),
            (Some(copy), None) => self.values.cast_into(copy),
            (Some(copy), Some(step)) => self.values.cast_stochastic_into(copy, step),
        }
    }

    /// What ops compute in.
    pub fn dtype(&self) -> DType {
        self.compute.as_ref().unwrap_or(&self.values).dtype()
    }

    /// The master values, and the copy in the compute type that is written along with them; none if it is rounded to blocks, which
    /// [`round_copy`](Self::round_copy) does.
    pub fn values_and_copy(&mut self) -> (&mut Tensor, Option<&mut Tensor>) {
        (&mut self.values, self.compute.as_mut().filter(|_| self.rounding.is_none()))
    }

    /// Makes the copy that is rounded to blocks anew, if there is one.
    pub fn round_copy(&mut self) -> Result<()> {
        match (&mut self.compute, &self.rounding) {
            (Some(copy), Some(rounding)) => rounding.write(copy, &self.values),
            _ => Ok(()),
        }
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
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
        let values = self.compute.as_ref().unwrap_or(&self.values);
        let value = values.view(handle.offset, &handle.shape);
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
        Tensor::zeros(device, &[self.len()], self.values.dtype())
    }
}
