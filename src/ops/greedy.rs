//! greedy: the likeliest next token of each row, argmax(x weight^T), where a device need not compute all logits for it
//!
//! Shapes    x (R, D) T     weight (V, D) T     tokens (R)
//! Order     of equal logits the first counts as the larger, as in `sample`: the tokens are those of `linear` and `sample`

use std::cell::RefCell;

use crate::autograd::Param;
use crate::device::driver::Search;
use crate::device::{DType, Device, Purpose, Tensor};
use crate::error::Result;

/// Calls of which a search only learns: what it prepares costs as much as some of them, and there may not be more.
const FIRST_CALLS: usize = 4;

/// The head of a model whose likeliest tokens are asked for, again and again, while its weight stays as it is.
pub struct Greedy {
    /// None: the device has none.
    state: Option<RefCell<State>>,
    /// Kept for the search, which reads it.
    _weight: Param,
}

struct State {
    search: Box<dyn Search>,
    calls: usize,
}

impl Greedy {
    /// Of `weight` (V, D).
    pub fn new(device: &Device, weight: Param) -> Self {
        let (driver, value, shape) = (device.driver(), &weight.value, [weight.shape()[0], weight.shape()[1]]);
        // Only then: a device that keeps account of traffic is told of every address that is asked for.
        let searches = driver.searches(value.dtype());
        // SAFETY: this holds the weight, which is not written while somebody does.
        let search = searches.then(|| unsafe { driver.search(value.address(), shape, value.dtype()) }).flatten();
        Self { state: search.map(|search| RefCell::new(State { search, calls: 0 })), _weight: weight }
    }

    /// The tokens (R) that follow x (R, D), on the device; None where logits must tell.
    pub fn tokens(&self, x: &Tensor) -> Result<Option<Tensor>> {
        let Some(state) = &self.state else { return Ok(None) };
        let State { search, calls } = &mut *state.borrow_mut();
        *calls += 1;
        let rows = x.shape()[0];
        if *calls <= FIRST_CALLS {
            // SAFETY: as many rows as x has; only a device on which all has run when it is queued has a search.
            unsafe { search.learn(x.address(), rows) };
            return Ok(None);
        }
        let mut tokens = Tensor::empty(&x.device().of(Purpose::Scratch), &[rows], DType::U32)?;
        // SAFETY: as above.
        let found = unsafe { search.largest(tokens.as_mut()?, x.address()) };
        Ok(found.then_some(tokens))
    }
}
