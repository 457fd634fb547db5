//! dropout: y = x / (1 - p) where an element is kept, else 0
//!
//! Shapes    x, y (n) T     key (2)
//! Backward  the same of dy: nothing is saved, what is kept is computed again
//! Order     elementwise; what is kept follows from key, product and index alone, on every device
//! Cost      2 * n * sizeof(T) bytes

use crate::batch::inputs::DeviceArray;
use crate::device::Tensor;
use crate::device::driver::{Access, engine_dtype};
use crate::error::Result;
use crate::launch;

/// Which elements of one activation of a batch are left out.
#[derive(Clone)]
pub struct Dropout {
    /// (2): random bits of the batch, sent with it, so that a captured step can be replayed
    pub key: DeviceArray,
    /// The number of the product that the activation goes into.
    pub product: u32,
    /// The part that is left out, in [0, 1).
    pub p: f64,
}

impl Dropout {
    /// y of x.
    pub fn of(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = Tensor::empty(x.device(), x.shape(), x.dtype())?;
        let (to, from) = (y.address_mut()?, x.address());
        // SAFETY: as many elements of the same type.
        unsafe { self.launch(x, to, from)? };
        Ok(y)
    }

    /// x becomes y.
    pub fn apply(&self, x: &mut Tensor) -> Result<()> {
        let at = x.address_to(x.len(), Access::Update)?;
        // SAFETY: y may be x.
        unsafe { self.launch(x, at, at) }
    }

    /// # Safety
    /// Both have as many elements as `like`, of its type.
    unsafe fn launch(&self, like: &Tensor, y: *mut std::ffi::c_void, x: *const std::ffi::c_void) -> Result<()> {
        let Self { product, p, .. } = *self;
        let (driver, n, dtype, key) =
            (like.device().driver(), like.len() as u64, engine_dtype(like.dtype()), self.key.address()?);
        // SAFETY: the caller's promise, and a key of two words.
        unsafe { launch!(driver, dropout { n }(y, x, key, n, product, p, dtype, driver.stream())) }
    }
}
