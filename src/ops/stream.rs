//! stream: the residual stream through all blocks, and the norms between them
//!
//! The norms are [`residual_rmsnorm`]'s, or part of the product that opens the next block: of few rows that nobody trains on, on a
//! device that joins small products. Equal to the bit.

use crate::autograd::{Rounding, Tape, Var};
use crate::device::Tensor;
use crate::device::bindings::{ENGINE_NORMED_ROWS, ENGINE_NORMED_WIDTH, engine_norm_pair};
use crate::err;
use crate::error::Result;
use crate::ops::residual::{NormPair, residual_rmsnorm};

/// The residual stream between two blocks, and what the next block opens with.
///
/// Where the next block may open with a product of few rows, on a device that joins small products, the norms are left to it.
pub struct Stream {
    /// (N, D): with every block that has been closed
    h: Var,
    opening: Opening,
}

enum Opening {
    /// The norm of h.
    Normed(Var),
    /// What the last block gives, and the norms that close it.
    Left(Var, NormPair),
    /// The block has opened.
    Done,
}

impl Stream {
    /// A residual stream and its norm.
    pub fn new([h, x]: [Var; 2]) -> Self {
        Self { h, opening: Opening::Normed(x) }
    }

    /// A residual stream to which nothing was added since a block opened with it.
    pub fn opened(h: Var) -> Self {
        Self { h, opening: Opening::Done }
    }

    /// The stream itself.
    pub fn sum(&self) -> &Var {
        &self.h
    }

    /// Adds what a block gives, normed.
    pub fn close(&mut self, tape: &mut Tape, x: &Var, norms: &NormPair) -> Result<()> {
        let may_be_left = !tape.is_for_backward() && tape.rounding() == Rounding::None;
        self.opening = Opening::Left(x.clone(), norms.clone());
        if !(may_be_left && is_known(&self.h.value, &x.value, norms)) {
            self.normed(tape)?;
        }
        Ok(())
    }

    /// The stream and its norm.
    pub fn normed(&mut self, tape: &mut Tape) -> Result<[Var; 2]> {
        if let Opening::Left(x, norms) = &self.opening {
            let (sum, y) = residual_rmsnorm(tape, &self.h, x, norms)?;
            *self = Self::new([sum, y]);
        }
        match &self.opening {
            Opening::Normed(x) => Ok([self.h.clone(), x.clone()]),
            _ => Err(err!("internal: a block opens twice")),
        }
    }

    /// What the last block gives, if its norms were left to a product.
    pub(super) fn left(&self) -> Option<&Tensor> {
        if let Opening::Left(x, _) = &self.opening { Some(&x.value) } else { None }
    }

    /// Lets `product` do what was left to it, with what the last block gives.
    pub(super) fn open(
        &mut self,
        tape: &mut Tape,
        product: impl FnOnce(&Tensor, &engine_norm_pair) -> Result<Tensor>,
    ) -> Result<Var> {
        let Opening::Left(x, norms) = &self.opening else { return Err(err!("internal: no norms were left")) };
        let mut sum = Tensor::empty(tape.device(), x.value.shape(), x.value.dtype())?;
        let NormPair { weight, next_weight, eps } = norms;
        let (weight, next_weight) = (weight.value.address(), next_weight.value.address());
        let (to, h) = (sum.address_mut()?, self.h.value.address());
        let y = product(&x.value, &engine_norm_pair { sum: to, h, weight, next_weight, eps: *eps })?;
        *self = Self { h: tape.output(sum)?, opening: Opening::Done };
        tape.output(y)
    }
}

/// Whether a product of few rows can do these norms.
fn is_known(h: &Tensor, x: &Tensor, NormPair { weight, next_weight, .. }: &NormPair) -> bool {
    let (rows, width) = (x.shape()[0], x.shape()[1]);
    let is_small = rows <= ENGINE_NORMED_ROWS as usize && width <= ENGINE_NORMED_WIDTH as usize;
    let is_even = [h, x, &weight.value, &next_weight.value].iter().all(|tensor| tensor.is_at_multiple_of(16));
    is_small && is_even && width.is_multiple_of(8) && x.device().driver().joins_products(x.dtype())
}
