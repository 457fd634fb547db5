//! What tensors can do by themselves: another type, and a sum. The launchers `cast` and `add`.

use super::driver::engine_dtype;
use super::{DType, Tensor};
use crate::error::Result;
use crate::launch;

impl Tensor {
    /// The same numbers in `dtype`, rounded to nearest, on the same device.
    pub fn cast(&self, dtype: DType) -> Result<Tensor> {
        let mut to = Tensor::empty(self.device(), self.shape(), dtype)?;
        let (driver, n) = (self.device().driver(), self.len() as u64);
        let (out, from) = (to.address_mut()?, self.address());
        let (dtype, own) = (engine_dtype(dtype), engine_dtype(self.dtype()));
        // SAFETY: both tensors have n elements of their types.
        unsafe { launch!(driver, cast { n }(out, from, n, dtype, own, driver.stream()))? };
        Ok(to)
    }

    /// Adds a tensor of the same shape and type to this one; an error when somebody else holds its storage.
    pub fn add(&mut self, term: &Tensor) -> Result<()> {
        assert_eq!((self.shape(), self.dtype()), (term.shape(), term.dtype()), "add");
        let sum = self.address_mut()?;
        let (driver, n, dtype) = (self.device().driver(), self.len() as u64, engine_dtype(self.dtype()));
        // SAFETY: both tensors have n elements of this type, and `sum` is held by nobody else.
        unsafe { launch!(driver, add { n }(sum, term.address(), n, dtype, driver.stream())) }
    }
}
