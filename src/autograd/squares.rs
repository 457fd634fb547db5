//! Sums of squares that those who write gradients leave, so that the norm of the gradient needs no pass over it.

use std::ffi::c_void;
use std::ops::Range;
use std::{mem, ptr};

use crate::device::bindings::{ENGINE_GRADIENT_TILE, ENGINE_SUM_PARTS_COLUMNS};
use crate::device::driver::Access;
use crate::device::{DType, Device, Purpose, Tensor};
use crate::error::Result;

/// The sums of one tape, and whether they are those of all gradients.
pub(super) struct Squares {
    /// Of which the first `used` are filled.
    sums: Tensor,
    used: usize,
    /// For each parameter whether its squares are among the sums.
    squared: Vec<bool>,
    /// Whether all that is among the sums is still so.
    holds: bool,
}

/// Sums that `weight_gradients` leaves of a matrix of this shape.
pub(super) fn tiles(shape: &[usize]) -> usize {
    shape.iter().map(|size| size.div_ceil(ENGINE_GRADIENT_TILE as usize)).product()
}

/// Sums that `sum_parts` leaves of so many columns.
pub(super) fn blocks(columns: usize) -> usize {
    columns.div_ceil(ENGINE_SUM_PARTS_COLUMNS as usize)
}

impl Squares {
    /// For parameters of these shapes, in this order, and `more` sums beside those of each.
    pub fn new(device: &Device, dtype: DType, shapes: &[&[usize]], more: usize) -> Result<Self> {
        let matrices: usize = shapes.iter().filter(|shape| shape.len() == 2).map(|shape| tiles(shape)).sum();
        let columns: usize = shapes.iter().filter(|shape| shape.len() == 1).map(|shape| shape[0]).sum();
        let sums = Tensor::empty(&device.of(Purpose::Gradients), &[matrices + blocks(columns) + more], dtype)?;
        Ok(Self { sums, used: 0, squared: vec![false; shapes.len()], holds: true })
    }

    /// Forgets all sums.
    pub fn clear(&mut self) {
        (self.used, self.holds) = (0, true);
        self.squared.fill(false);
    }

    /// Somebody writes gradients of parameters and leaves no sums.
    pub fn wrote(&mut self, parameters: Range<usize>) {
        self.holds &= !self.squared[parameters].contains(&true);
    }

    /// Whether the squares of all of these are among the sums.
    pub fn has(&self, mut parameters: Range<usize>) -> bool {
        parameters.all(|parameter| self.squared[parameter])
    }

    /// Where somebody who writes the gradients of `parameters` leaves so many sums of their squares; null when there is no room, and then
    /// the sums are not those of all gradients.
    pub fn of(&mut self, parameters: impl IntoIterator<Item = usize>, sums: usize) -> Result<*mut c_void> {
        for parameter in parameters {
            self.holds &= !mem::replace(&mut self.squared[parameter], true);
        }
        self.growth(sums)
    }

    /// The same for what the squares of gradients that are among the sums grow by.
    pub fn growth(&mut self, sums: usize) -> Result<*mut c_void> {
        if self.used + sums > self.sums.len() {
            self.holds = false;
            return Ok(ptr::null_mut());
        }
        self.used += sums;
        self.sums.address_of_part(self.used - sums, sums, Access::Write)
    }

    /// All sums; None when some gradient's squares are not among them.
    pub fn all(&self) -> Option<Tensor> {
        let all = self.holds && self.squared.iter().all(|&squared| squared);
        all.then(|| self.sums.view(0, &[self.used]))
    }
}
