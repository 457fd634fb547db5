//! What tensors can do by themselves: another type, and a sum. The launchers `cast` and `add`.

use std::ffi::c_void;

use super::driver::{Access, engine_dtype};
use super::{DType, Tensor};
use crate::error::Result;
use crate::launch;

impl Tensor {
    /// The same numbers in `dtype`, rounded to nearest, on the same device.
    pub fn cast(&self, dtype: DType) -> Result<Tensor> {
        let mut to = Tensor::empty(self.device(), self.shape(), dtype)?;
        self.cast_into(&mut to)?;
        Ok(to)
    }

    /// [`Tensor::cast`] to a tensor that is there; an error when somebody else holds its storage.
    pub fn cast_into(&self, to: &mut Tensor) -> Result<()> {
        assert_eq!(self.len(), to.len(), "cast");
        let (dtype, own) = (engine_dtype(to.dtype()), engine_dtype(self.dtype()));
        let (driver, n, to, from) = (self.device().driver(), self.len() as u64, to.address_mut()?, self.address());
        // SAFETY: both tensors have n elements of their types.
        unsafe { launch!(driver, cast { n }(to, from, n, dtype, own, driver.stream())) }
    }

    /// Adds a tensor of the same shape and type to this one; an error when somebody else holds its storage.
    pub fn add(&mut self, term: &Tensor) -> Result<()> {
        assert_eq!((self.shape(), self.dtype()), (term.shape(), term.dtype()), "add");
        // SAFETY: a tensor of as many elements of this type.
        unsafe { self.add_array(term.address()) }
    }

    /// [`add`](Self::add) of an array of the device.
    ///
    /// # Safety
    /// It has as many elements of this type.
    pub unsafe fn add_array(&mut self, term: *const c_void) -> Result<()> {
        let sum = self.address_to(self.len(), Access::Update)?;
        let (driver, n, dtype) = (self.device().driver(), self.len() as u64, engine_dtype(self.dtype()));
        // SAFETY: n elements of this type each, the sum's held by nobody else; the caller's promise.
        unsafe { launch!(driver, add { n }(sum, term, n, dtype, driver.stream())) }
    }
}
