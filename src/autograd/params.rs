//! A model's parameters and their gradients: one flat run of numbers each, in the order of the parameter table.
//!
//! Flat, because then clipping and AdamW are one pass, a checkpoint is one buffer, and matrices that are adjacent in
//! the table (q, k, v; gate, up) are one fused matrix without a copy.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ops::Range;
use std::rc::Rc;

use super::matrices::{Matrices, Waiting};
use super::round_blocks::{BlockFormat, RoundBlocks};
use super::vectors::{Parts, Vector, Vectors, rows_of_part};
use crate::device::driver::{Access, Extent};
use crate::device::{DType, Device, Purpose, Tensor};
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

    /// Whether its gradient begins at a multiple of 16 bytes, in f32.
    pub(super) fn is_even(&self) -> bool {
        self.offset.is_multiple_of(4)
    }

    /// Whether it is not trained: it has no gradient.
    pub fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    fn range(&self) -> Range<usize> {
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
    spans: Rc<[Span]>,
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

    /// Zeroed gradients for all parameters.
    pub fn gradients(&self) -> Result<Gradients> {
        let values = self.zeros(&self.values.device().of(Purpose::Gradients))?;
        let vectors: Vec<Vector> = self
            .spans
            .iter()
            .enumerate()
            .filter(|(_, span)| span.shape.len() == 1)
            .map(|(param, span)| Vector { param, offset: span.offset, len: span.shape[0] })
            .collect();
        let vectors = Vectors::new(values.device(), &vectors)?;
        let shapes: Vec<&[usize]> = self.spans.iter().map(|span| &span.shape[..]).collect();
        let matrices = Matrices::new(values.device(), self.dtype(), &shapes)?;
        Ok(Gradients {
            values,
            vectors,
            matrices,
            spans: self.spans.clone(),
            touched: vec![false; self.spans.len()],
            holds: vec![false; self.spans.len()],
        })
    }

    /// A zeroed tensor as long as the flat run: an optimizer moment.
    pub fn zeros(&self, device: &Device) -> Result<Tensor> {
        Tensor::zeros(device, &[self.len()], self.values.dtype())
    }
}

/// The accumulated gradients of all parameters: the first one of a step is written, the others are added (`+=`).
pub struct Gradients {
    /// The flat run, in the layout of [`Params`].
    pub values: Tensor,
    spans: Rc<[Span]>,
    vectors: Vectors,
    /// None where products do not wait.
    matrices: Option<Matrices>,
    touched: Vec<bool>,
    /// Whether a parameter's part can be added to: it holds gradients of this step, or zeros.
    holds: Vec<bool>,
}

impl Gradients {
    /// What the last step has left is gone: it will be written over.
    pub fn begin_step(&mut self) {
        self.holds.fill(false);
    }

    /// What a tape that failed has left is gone.
    pub(super) fn begin_tape(&mut self) {
        self.vectors.clear();
        self.matrices.iter_mut().for_each(Matrices::clear);
    }

    /// All gradients of a tape are written, also those that were put off.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.write_waiting()?;
        self.add_up_vectors()
    }

    /// Sums whose sum is that of the squares of all gradients, as the last tape left them; None when they have to be read for it.
    pub fn sums_of_squares(&self) -> Option<Tensor> {
        self.matrices.as_ref()?.sums()
    }

    /// Puts dweight (O, I) = or += dy (N, O)^T x (N, I) off until the end of the backward, or until somebody else writes it. False: it is the
    /// caller's to do.
    pub fn put_off(&mut self, weight: &Param, dy: &Tensor, x: &Tensor) -> Result<bool> {
        let Some(matrices) = self.matrices.as_ref().filter(|matrices| matrices.takes(weight, dy, x)) else {
            return Ok(false);
        };
        if !matrices.has_room() || self.waits(weight) {
            self.write_waiting()?;
        }
        let adds = self.claim(weight)?;
        self.matrices.iter_mut().for_each(|matrices| matrices.waiting.push(Waiting::new(weight, dy, x, adds)));
        Ok(true)
    }

    /// Queues the products that were put off.
    pub fn write_waiting(&mut self) -> Result<()> {
        let Some(matrices) = self.matrices.as_mut().filter(|matrices| !matrices.waiting.is_empty()) else {
            return Ok(());
        };
        let waiting = std::mem::take(&mut matrices.waiting);
        let parameters: Vec<usize> = waiting.iter().flat_map(|product| self.spans_of(&product.weight)).collect();
        let mut products = Vec::with_capacity(waiting.len());
        for product in waiting {
            let address = self.told(&product.weight, product.weight.value.len(), product.access())?;
            products.push((product, address));
        }
        let device = self.values.device().clone();
        self.matrices.iter_mut().try_for_each(|matrices| matrices.write(&device, &products, parameters.iter().copied()))
    }

    /// Whether a product of this weight was put off.
    fn waits(&self, weight: &Param) -> bool {
        let range = weight.range();
        let overlaps = |product: &Waiting| {
            let other = product.weight.range();
            other.start < range.end && range.start < other.end
        };
        self.matrices.iter().any(|matrices| matrices.waiting.iter().any(overlaps))
    }

    /// Where an op leaves its parts of a vector's gradient, which are sums over some of the `n` rows of a batch; null for a frozen one.
    pub fn parts(&mut self, param: &Param, n: usize) -> Result<Parts> {
        if param.is_frozen {
            return Ok(Parts { address: std::ptr::null_mut(), rows: rows_of_part(n) as u32 });
        }
        let number = self.spans_of(param).start;
        if !self.vectors.has_room_for(number, n) {
            self.add_up_vectors()?; // it is used twice
        }
        let (device, dtype) = (self.values.device().clone(), self.values.dtype());
        self.vectors.place(&device, number, n, dtype)
    }

    /// [`parts`](Self::parts) of two vectors, for one launch.
    pub fn parts_of_two(&mut self, params: [&Param; 2], n: usize) -> Result<[Parts; 2]> {
        let trained = params.into_iter().filter(|param| !param.is_frozen);
        let numbers: Vec<usize> = trained.map(|param| self.spans_of(param).start).collect();
        if matches!(numbers[..], [a, b] if a == b) {
            return Err(err!("internal: one weight for both norms of a pair"));
        }
        if !numbers.iter().all(|&number| self.vectors.has_room_for(number, n)) {
            self.add_up_vectors()?;
        }
        Ok([self.parts(params[0], n)?, self.parts(params[1], n)?])
    }

    /// Adds up the parts that ops have left.
    pub(super) fn add_up_vectors(&mut self) -> Result<()> {
        if self.vectors.filled().next().is_none() {
            return Ok(());
        }
        let vectors = self.vectors.all().to_vec();
        self.vectors.filled().for_each(|param| self.touched[param] = true);
        let adds = vectors.iter().any(|&param| self.holds[param]);
        for param in vectors {
            if adds && !self.holds[param] {
                self.zero(param)?;
            }
            self.holds[param] = true;
        }
        let (blocks, all) = (self.vectors.sums(), self.vectors.all().iter().copied());
        let squares = match &mut self.matrices {
            Some(matrices) => matrices.room_for(blocks, all)?,
            None => std::ptr::null_mut(),
        };
        self.vectors.add_up(&mut self.values, squares, adds)
    }

    /// What is in [`values`](Self::values) is added to, as if this step had put it there.
    pub fn hold(&mut self) {
        self.holds.fill(true);
    }

    /// Where a parameter's part lies on the device, to add to; null for a frozen one.
    pub fn address(&mut self, param: &Param) -> Result<*mut c_void> {
        self.address_of_some(param, param.value.len())
    }

    /// [`address`](Self::address), for a launcher that adds to at most so many of the elements.
    pub fn address_of_some(&mut self, param: &Param, elements: usize) -> Result<*mut c_void> {
        if param.is_frozen {
            return Ok(std::ptr::null_mut());
        }
        self.hold_zeros(param)?;
        let spans = self.spans_of(param);
        self.matrices.iter_mut().for_each(|matrices| matrices.wrote(spans.clone()));
        self.told(param, elements, Access::Update)
    }

    /// [`address_of_some`](Self::address_of_some), and where the launcher leaves by how much the sum of squares grows, in so many parts; null when
    /// nobody asks. Not for frozen ones.
    pub fn address_and_growth(&mut self, param: &Param, elements: usize, parts: usize) -> Result<[*mut c_void; 2]> {
        self.hold_zeros(param)?;
        let spans = self.spans_of(param);
        let squares = match self.matrices.as_mut().filter(|matrices| matrices.has_squares_of(spans)) {
            Some(matrices) => matrices.room_for(parts, [])?,
            None => std::ptr::null_mut(),
        };
        Ok([self.told(param, elements, Access::Update)?, squares])
    }

    /// A parameter's part can be added to.
    fn hold_zeros(&mut self, param: &Param) -> Result<()> {
        if self.waits(param) {
            self.write_waiting()?;
        }
        let spans = self.spans_of(param);
        for i in spans.clone() {
            if !self.holds[i] {
                self.zero(i)?;
            }
        }
        self.touched[spans.clone()].fill(true);
        self.holds[spans].fill(true);
        Ok(())
    }

    /// Whether the next one is to add to a parameter's part; else it is to write all of it.
    fn claim(&mut self, param: &Param) -> Result<bool> {
        let spans = self.spans_of(param);
        let adds = self.holds[spans.clone()].contains(&true);
        if !adds {
            self.holds[spans].fill(true);
        }
        self.hold_zeros(param)?;
        Ok(adds)
    }

    /// Where a parameter's part lies on the device, and whether to add to it; else it is to be written, all of it. Not for
    /// frozen ones.
    pub fn address_to_write_or_add(&mut self, param: &Param) -> Result<(*mut c_void, bool)> {
        let adds = self.claim(param)?;
        let spans = self.spans_of(param);
        self.matrices.iter_mut().for_each(|matrices| matrices.wrote(spans.clone()));
        let access = if adds { Access::Update } else { Access::Write };
        Ok((self.told(param, param.value.len(), access)?, adds))
    }

    /// Where a parameter's part lies; the driver is told what will be done with it.
    fn told(&mut self, param: &Param, elements: usize, access: Access) -> Result<*mut c_void> {
        let address = self.at(param.offset)?;
        let bytes = elements.min(param.value.len()) * self.values.dtype().size();
        self.values.device().driver().addressed(Extent { address, bytes, access });
        Ok(address)
    }

    fn zero(&mut self, param: usize) -> Result<()> {
        let (range, at) = (self.spans[param].range(), self.at(self.spans[param].offset)?);
        // SAFETY: the parameter's part of the flat run.
        unsafe { self.values.device().driver().zero(at, range.len() * self.values.dtype().size()) }
    }

    fn at(&mut self, offset: usize) -> Result<*mut c_void> {
        let start = self.values.address_mut()?.cast::<u8>();
        Ok(start.wrapping_add(offset * self.values.dtype().size()).cast())
    }

    /// The parameters that a (fused) one is made of.
    fn spans_of(&self, param: &Param) -> Range<usize> {
        let range = param.range();
        let place = |offset: usize| self.spans.partition_point(|span| span.offset < offset);
        place(range.start)..place(range.end)
    }

    /// An error naming a parameter that no backward has added to: the silent fault of a hand-written tape.
    pub fn check_all_touched(&self) -> Result<()> {
        match self.touched.iter().position(|&touched| !touched) {
            Some(i) => Err(err!("internal: parameter `{}` received no gradient", self.spans[i].name)),
            None => Ok(()),
        }
    }
}
