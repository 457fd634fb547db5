//! greedy: the likeliest next token of each row, argmax(x weight^T), where a device need not compute all logits for it
//!
//! Shapes    x (R, D) T     weight (V, D) T     tokens (R)
//! Order     of equal logits the first counts as the larger, as in `sample`: the tokens are those of `linear` and `sample`

use std::cell::RefCell;

use crate::autograd::Param;
use crate::device::driver::Search;
use crate::device::{DType, Purpose, Tensor};
use crate::error::Result;

/// Calls that are left to `linear` and `sample`: what a search prepares costs as much as some of them, and there may not be more.
const FIRST_CALLS: usize = 4;

/// The head of a model whose likeliest tokens are asked for, again and again, while its weight stays as it is.
pub struct Greedy {
    weight: Param,
    state: RefCell<State>,
}

enum State {
    /// So many calls so far.
    Waiting(usize),
    /// None: the device has no search.
    Begun(Option<Box<dyn Search>>),
}

impl Greedy {
    /// Of `weight` (V, D).
    pub fn new(weight: Param) -> Self {
        Self { weight, state: RefCell::new(State::Waiting(0)) }
    }

    /// The tokens (R) that follow x (R, D), on the device; None where logits must tell.
    pub fn tokens(&self, x: &Tensor) -> Result<Option<Tensor>> {
        let mut state = self.state.borrow_mut();
        if let State::Waiting(calls) = &mut *state {
            *calls += 1;
            if *calls <= FIRST_CALLS {
                return Ok(None);
            }
            let (value, shape) = (&self.weight.value, self.weight.shape());
            // SAFETY: this holds the weight, which is not written while somebody does.
            let search = unsafe { x.device().driver().search(value.address(), [shape[0], shape[1]], value.dtype()) };
            *state = State::Begun(search);
        }
        let State::Begun(Some(search)) = &mut *state else { return Ok(None) };
        let mut tokens = Tensor::empty(&x.device().of(Purpose::Scratch), &[x.shape()[0]], DType::U32)?;
        // SAFETY: as many rows as x has; only a device on which all has run when it is queued has a search.
        let found = unsafe { search.largest(tokens.as_mut()?, x.address()) };
        Ok(found.then_some(tokens))
    }
}
