//! The gradients of a model's parameters: a flat run of numbers in the layout of the parameters, and who may write where.

use std::ffi::c_void;
use std::ops::Range;
use std::rc::Rc;
use std::{mem, ptr};

use super::matrices::{self, MOST_WAITING, Waiting};
use super::params::{Param, Params, Span};
use super::squares::{Squares, blocks};
use super::vectors::{Parts, Vector, Vectors, rows_of_part};
use crate::device::driver::{Access, Extent, MOST_SMALL_ROWS};
use crate::device::{Purpose, Tensor};
use crate::err;
use crate::error::Result;

impl Params {
    /// Zeroed gradients for all parameters.
    pub fn gradients(&self) -> Result<Gradients> {
        let values = self.zeros(&self.device().of(Purpose::Gradients))?;
        let vectors: Vec<Vector> = self
            .spans
            .iter()
            .enumerate()
            .filter(|(_, span)| span.shape.len() == 1)
            .map(|(param, span)| Vector { param, offset: span.offset, len: span.shape[0] })
            .collect();
        let vectors = Vectors::new(values.device(), &vectors)?;
        let shapes: Vec<&[usize]> = self.spans.iter().map(|span| &span.shape[..]).collect();
        // Of the embedding a sum for each token: where there are more, products do not wait.
        let squares = values
            .device()
            .driver()
            .joins_products(self.dtype())
            .then(|| Squares::new(values.device(), values.dtype(), &shapes, MOST_SMALL_ROWS))
            .transpose()?;
        Ok(Gradients {
            values,
            vectors,
            waiting: Vec::new(),
            squares,
            spans: self.spans.clone(),
            touched: vec![false; self.spans.len()],
            holds: vec![false; self.spans.len()],
        })
    }
}

/// The accumulated gradients of all parameters: the first one of a step is written, the others are added (`+=`).
pub struct Gradients {
    /// The flat run, in the layout of [`Params`].
    pub values: Tensor,
    spans: Rc<[Span]>,
    vectors: Vectors,
    /// Products that were put off.
    waiting: Vec<Waiting>,
    /// None where products do not wait.
    squares: Option<Squares>,
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
        self.waiting.clear();
        self.squares.iter_mut().for_each(Squares::clear);
    }

    /// All gradients of a tape are written, also those that were put off.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.write_waiting()?;
        self.add_up_vectors()
    }

    /// Sums whose sum is that of the squares of all gradients, as the last tape left them; None when they have to be read for it.
    pub fn sums_of_squares(&self) -> Option<Tensor> {
        self.squares.as_ref()?.all()
    }

    /// Puts dweight (O, I) = or += dy (N, O)^T x (N, I) off until the end of the backward, or until somebody else writes it.
    /// False: it is the caller's to do.
    pub fn put_off(&mut self, weight: &Param, dy: &Tensor, x: &Tensor) -> Result<bool> {
        if self.squares.is_none() || !Waiting::is_possible(&weight.range(), dy, x) {
            return Ok(false);
        }
        if self.waiting.len() == MOST_WAITING {
            self.write_waiting()?;
        }
        let adds = self.claim(weight)?;
        self.waiting.push(Waiting::new(weight.range(), dy, x, adds));
        Ok(true)
    }

    /// Queues the products that were put off.
    pub fn write_waiting(&mut self) -> Result<()> {
        let waiting = mem::take(&mut self.waiting);
        if waiting.is_empty() {
            return Ok(());
        }
        let parameters: Vec<usize> = waiting.iter().flat_map(|product| self.spans_in(&product.range)).collect();
        let squares = self.sums(parameters, waiting.iter().map(Waiting::sums).sum())?;
        let described = |product: &Waiting| {
            let dweight = self.told(&product.range, product.range.len(), product.access())?;
            Ok(product.described(dweight))
        };
        let products = waiting.iter().map(described).collect::<Result<Vec<_>>>()?;
        // SAFETY: the weights' parts of the gradients, tensors that `waiting` holds, and room for their sums.
        unsafe { matrices::write(self.values.device(), squares, &products) }
    }

    /// Where the squares of these parameters' gradients are left; null when nobody asks.
    fn sums(&mut self, parameters: Vec<usize>, sums: usize) -> Result<*mut c_void> {
        self.squares.as_mut().map_or(Ok(ptr::null_mut()), |squares| squares.of(parameters, sums))
    }

    /// Where an op leaves its parts of a vector's gradient, which are sums over some of the `n` rows of a batch; null for a frozen one.
    pub fn parts(&mut self, param: &Param, n: usize) -> Result<Parts> {
        if param.is_frozen() {
            return Ok(Parts { address: ptr::null_mut(), rows: rows_of_part(n) as u32 });
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
        let trained = params.into_iter().filter(|param| !param.is_frozen());
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
        let squares = self.sums(self.vectors.all().to_vec(), blocks(self.vectors.columns()))?;
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
        if param.is_frozen() {
            return Ok(ptr::null_mut());
        }
        self.hold_zeros(param)?;
        self.told_without_sums(param, elements, Access::Update)
    }

    /// [`address_of_some`](Self::address_of_some), and where the launcher leaves by how much the sum of squares grows, in so many
    /// parts; null when nobody asks. Not for frozen ones.
    pub fn address_and_growth(&mut self, param: &Param, elements: usize, parts: usize) -> Result<[*mut c_void; 2]> {
        self.hold_zeros(param)?;
        let spans = self.spans_of(param);
        let squares = match self.squares.as_mut().filter(|squares| squares.has(spans)) {
            Some(squares) => squares.growth(parts)?,
            None => ptr::null_mut(),
        };
        Ok([self.told(&param.range(), elements, Access::Update)?, squares])
    }

    /// A parameter's part can be added to.
    fn hold_zeros(&mut self, param: &Param) -> Result<()> {
        if self.waiting.iter().any(|product| product.overlaps(&param.range())) {
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
        let access = if adds { Access::Update } else { Access::Write };
        Ok((self.told_without_sums(param, param.value.len(), access)?, adds))
    }

    /// [`told`](Self::told) for somebody who leaves no sums of squares.
    fn told_without_sums(&mut self, param: &Param, elements: usize, access: Access) -> Result<*mut c_void> {
        let spans = self.spans_of(param);
        self.squares.iter_mut().for_each(|squares| squares.wrote(spans.clone()));
        self.told(&param.range(), elements, access)
    }

    /// Where a parameter's part lies; the driver is told what will be done with it.
    fn told(&mut self, of: &Range<usize>, elements: usize, access: Access) -> Result<*mut c_void> {
        let address = self.at(of.start)?;
        let bytes = elements.min(of.len()) * self.values.dtype().size();
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
        self.spans_in(&param.range())
    }

    fn spans_in(&self, range: &Range<usize>) -> Range<usize> {
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
