//! cast: the same numbers in another type, rounded to nearest
//!
//! Cost      one read and one write of every element: memory bound

use half::bf16;

use crate::device::driver::engine_dtype;
use crate::device::{DType, Tensor};
use crate::error::Result;
use crate::launch;

/// `from` in `dtype`, on the same device.
pub fn cast(from: &Tensor, dtype: DType) -> Result<Tensor> {
    let mut to = Tensor::empty(from.device(), from.shape(), dtype)?;
    match from.device().driver() {
        Some(driver) => {
            let n = from.len() as u64;
            let (to, from, types) =
                (to.address_mut()?, from.address(), (engine_dtype(dtype), engine_dtype(from.dtype())));
            // SAFETY: both tensors have n elements of their types.
            unsafe { launch!(driver.kernels(), cast { n }(to, from, n, types.0, types.1, driver.stream()))? };
        }
        None => {
            let values = from.to_f64();
            match dtype {
                DType::F32 => fill(to.as_mut()?, &values, |x| x as f32),
                DType::F64 => fill(to.as_mut()?, &values, |x| x),
                DType::Bf16 => fill(to.as_mut()?, &values, bf16::from_f64),
                DType::U32 => fill(to.as_mut()?, &values, |x| x as u32),
            }
        }
    }
    Ok(to)
}

fn fill<T>(to: &mut [T], values: &[f64], convert: impl Fn(f64) -> T) {
    to.iter_mut().zip(values).for_each(|(to, &x)| *to = convert(x));
}
