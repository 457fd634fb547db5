//! Gradients of matrices whose products wait for one another, and the sums of squares that are left by whoever writes a gradient.
//!
//! With the few hundred rows of a batch of the tutorial the product of a weight's gradient is bound by memory, and most weights are too
//! small to fill a GPU: one launch at the end of a backward writes those of all layers. As it has every number in hand, it adds up their
//! squares, and the norm of the gradient needs no pass of its own.

use std::ffi::c_void;
use std::ops::Range;
use std::{mem, ptr};

use crate::device::bindings::{ENGINE_GRADIENT_TILE, ENGINE_MOST_WEIGHT_GRADIENTS, engine_weight_gradient};
use crate::device::driver::{Access, engine_dtype};
use crate::device::{DType, Device, Purpose, Tensor};
use crate::error::Result;
use crate::launch;

/// Rows up to which a product is bound by memory; with more of them a library's product is faster.
const MOST_ROWS: usize = 512;
/// Room for the sums that a backward of the embedding leaves, one for each of its tokens.
const EMBEDDING_SUMS: usize = 4096;

/// A product that waits: dweight (O, I) = or += dy (N, O)^T x (N, I).
pub(super) struct Waiting {
    /// Of the weight in the flat run.
    pub range: Range<usize>,
    dy: Tensor,
    x: Tensor,
    adds: bool,
}

impl Waiting {
    pub fn new(range: Range<usize>, dy: &Tensor, x: &Tensor, adds: bool) -> Self {
        Self { range, dy: dy.clone(), x: x.clone(), adds }
    }

    /// What the product does with the weight's gradient.
    pub fn access(&self) -> Access {
        if self.adds { Access::Update } else { Access::Write }
    }

    /// As the launcher wants it, with the address of the weight's gradient.
    fn described(&self, dweight: *mut c_void) -> engine_weight_gradient {
        let (n, o, i) = (self.dy.shape()[0] as u32, self.dy.shape()[1] as u32, self.x.shape()[1] as u32);
        let accumulate = u32::from(self.adds);
        engine_weight_gradient { dweight, dy: self.dy.address(), x: self.x.address(), n, o, i, accumulate }
    }

    fn tiles(&self) -> usize {
        tiles(&[self.dy.shape()[1], self.x.shape()[1]])
    }

    fn flop(&self) -> usize {
        2 * self.dy.len() * self.x.shape()[1]
    }
}

/// Products that wait, and sums of squares.
pub(super) struct Matrices {
    pub waiting: Vec<Waiting>,
    /// Sums of squares, of which the first `used` are filled.
    sums: Tensor,
    used: usize,
    /// For each parameter whether its squares are among the sums.
    squared: Vec<bool>,
    /// Whether all that is among the sums is still so.
    holds: bool,
}

/// The sums of squares of a matrix of this shape.
fn tiles(shape: &[usize]) -> usize {
    shape.iter().map(|size| size.div_ceil(ENGINE_GRADIENT_TILE as usize)).product()
}

impl Matrices {
    /// For parameters of these shapes, in this order. None where products do not wait: on the host, and in other types than bf16.
    pub fn new(device: &Device, dtype: DType, shapes: &[&[usize]]) -> Result<Option<Self>> {
        if !device.driver().joins_weight_gradients() || dtype != DType::Bf16 {
            return Ok(None);
        }
        let matrices: usize = shapes.iter().filter(|shape| shape.len() == 2).map(|shape| tiles(shape)).sum();
        let vectors: usize = shapes.iter().filter(|shape| shape.len() == 1).map(|shape| shape[0]).sum();
        let room = matrices + vectors + EMBEDDING_SUMS;
        let sums = Tensor::empty(&device.of(Purpose::Gradients), &[room], dtype.accumulator())?;
        Ok(Some(Self { waiting: Vec::new(), sums, used: 0, squared: vec![false; shapes.len()], holds: true }))
    }

    /// Forgets what waits, and all sums.
    pub fn clear(&mut self) {
        self.waiting.clear();
        (self.used, self.holds) = (0, true);
        self.squared.fill(false);
    }

    /// Whether a product of these is one that waits.
    pub fn takes(&self, range: &Range<usize>, dy: &Tensor, x: &Tensor) -> bool {
        let even = |tensor: &Tensor| tensor.shape()[1].is_multiple_of(8);
        // Its gradient is of f32 and must lie at a multiple of 16 bytes.
        let is_even = even(dy) && even(x) && range.start.is_multiple_of(4);
        is_even && dy.dtype() == DType::Bf16 && dy.shape()[0] <= MOST_ROWS
    }

    /// Whether a product waits that writes some of these gradients.
    pub fn waits_for(&self, range: &Range<usize>) -> bool {
        self.waiting.iter().any(|product| product.range.start < range.end && range.start < product.range.end)
    }

    /// Whether one more can wait.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < ENGINE_MOST_WEIGHT_GRADIENTS as usize
    }

    /// Somebody writes gradients of parameters and leaves no sums.
    pub fn wrote(&mut self, parameters: Range<usize>) {
        self.holds &= !self.squared[parameters].contains(&true);
    }

    /// Whether the squares of all of these are among the sums.
    pub fn has_squares_of(&self, mut parameters: Range<usize>) -> bool {
        parameters.all(|parameter| self.squared[parameter])
    }

    /// Where somebody who writes gradients leaves so many sums of their squares. They are those of `parameters`, or with none what the squares
    /// of some that are among the sums already grow by.
    ///
    /// Null when there is no room: the sums are then not those of all gradients.
    pub fn room_for(&mut self, sums: usize, parameters: impl IntoIterator<Item = usize>) -> Result<*mut c_void> {
        for parameter in parameters {
            self.holds &= !mem::replace(&mut self.squared[parameter], true);
        }
        if self.used + sums > self.sums.len() {
            self.holds = false;
            return Ok(ptr::null_mut());
        }
        let first = self.used;
        self.used += sums;
        self.sums.address_of_part(first, sums, Access::Write)
    }

    /// All sums; None when some gradient's squares are not among them.
    pub fn sums(&self) -> Option<Tensor> {
        let all = self.holds && self.squared.iter().all(|&squared| squared);
        all.then(|| self.sums.view(0, &[self.used]))
    }

    /// Queues the products that waited for `parameters`, whose gradients lie at these addresses.
    pub fn write(
        &mut self,
        device: &Device,
        products: &[(Waiting, *mut c_void)],
        parameters: impl IntoIterator<Item = usize>,
    ) -> Result<()> {
        let count: usize = products.iter().map(|(product, _)| product.tiles()).sum();
        let squares = self.room_for(count, parameters)?;
        let list: Vec<engine_weight_gradient> = products.iter().map(|(product, at)| product.described(*at)).collect();
        let flop: usize = products.iter().map(|(product, _)| product.flop()).sum();
        let (driver, weights, dtype) = (device.driver(), list.len() as u32, engine_dtype(DType::Bf16));
        // SAFETY: tensors of these shapes, and a sum for each tile or null.
        unsafe {
            launch!(driver, weight_gradients { weights, flop }(squares, list.as_ptr(), weights, dtype, driver.stream()))
        }
    }
}
