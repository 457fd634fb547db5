//! Gradients of matrices, whose products wait for one another.
//!
//! With the few hundred rows of a batch of the tutorial the product of a weight's gradient is bound by memory, and most weights are too
//! small to fill a GPU: one launch at the end of a backward writes those of all layers. As it has every number in hand, it adds up their
//! squares.

use std::ffi::c_void;
use std::ops::Range;

use super::squares::tiles;
use crate::device::bindings::{ENGINE_MOST_WEIGHT_GRADIENTS, engine_weight_gradient};
use crate::device::driver::{Access, MOST_SMALL_ROWS, engine_dtype};
use crate::device::{DType, Device, Tensor};
use crate::error::Result;
use crate::launch;

/// Products of one launch.
pub(super) const MOST_WAITING: usize = ENGINE_MOST_WEIGHT_GRADIENTS as usize;

/// A product that waits: dweight (O, I) = or += dy (N, O)^T x (N, I).
pub(super) struct Waiting {
    /// Of the weight in the flat run.
    pub range: Range<usize>,
    pub adds: bool,
    dy: Tensor,
    x: Tensor,
}

impl Waiting {
    /// Whether this product is one that can wait.
    pub fn is_possible(range: &Range<usize>, dy: &Tensor, x: &Tensor) -> bool {
        let even = |tensor: &Tensor| tensor.shape()[1].is_multiple_of(8);
        // Its gradient is of f32 and must lie at a multiple of 16 bytes.
        let is_even = even(dy) && even(x) && range.start.is_multiple_of(4);
        is_even && dy.dtype() == DType::Bf16 && dy.shape()[0] <= MOST_SMALL_ROWS
    }

    pub fn new(range: Range<usize>, dy: &Tensor, x: &Tensor, adds: bool) -> Self {
        Self { range, adds, dy: dy.clone(), x: x.clone() }
    }

    /// What the product does with the weight's gradient.
    pub fn access(&self) -> Access {
        if self.adds { Access::Update } else { Access::Write }
    }

    pub fn overlaps(&self, range: &Range<usize>) -> bool {
        self.range.start < range.end && range.start < self.range.end
    }

    /// Sums of squares that it leaves.
    pub fn sums(&self) -> usize {
        tiles(&[self.dy.shape()[1], self.x.shape()[1]])
    }

    /// As the launcher wants it, with the address of the weight's gradient.
    pub fn described(&self, dweight: *mut c_void) -> engine_weight_gradient {
        let (n, o, i) = (self.dy.shape()[0] as u32, self.dy.shape()[1] as u32, self.x.shape()[1] as u32);
        let accumulate = u32::from(self.adds);
        engine_weight_gradient { dweight, dy: self.dy.address(), x: self.x.address(), n, o, i, accumulate }
    }
}

/// Queues products.
///
/// # Safety
/// Matrices of the sizes that they tell, and in `squares` a sum for each tile, or null.
pub(super) unsafe fn write(device: &Device, squares: *mut c_void, products: &[engine_weight_gradient]) -> Result<()> {
    let flop: u64 = products.iter().map(|p| 2 * u64::from(p.n) * u64::from(p.o) * u64::from(p.i)).sum();
    let (driver, weights, dtype) = (device.driver(), products.len() as u32, engine_dtype(DType::Bf16));
    // SAFETY: the caller's promise.
    unsafe {
        launch!(driver, weight_gradients { weights, flop }(squares, products.as_ptr(), weights, dtype, driver.stream()))
    }
}
