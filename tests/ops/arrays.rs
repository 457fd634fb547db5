//! What tests of single launchers need: arrays that nobody has written, indices, and results with numbers in them.

use engine::device::bindings::engine_step_results;
use engine::device::{DType, Device, Tensor};
use engine::ops::results::StepResults;

use crate::lists::tensor;

/// `len` elements, all NaN.
pub fn unwritten(device: &Device, dtype: DType, len: usize) -> Tensor {
    let mut array = Tensor::empty(device, &[len], dtype).unwrap();
    let address = array.address_mut().unwrap();
    // SAFETY: the array's own memory.
    unsafe { device.driver().upload(address, &vec![0xff; len * dtype.size()]).unwrap() };
    array
}

/// Elements of `dtype`.
pub fn array(device: &Device, dtype: DType, values: &[f64]) -> Tensor {
    tensor(device, &[values.len()], dtype, values)
}

/// Indices, for a launcher.
pub fn indices(device: &Device, values: &[u32]) -> Tensor {
    Tensor::from_slice(device, &[values.len()], values)
}

/// Indices of 64 bits, as twice as many words.
pub fn long_indices(device: &Device, values: &[u64]) -> Tensor {
    indices(device, bytemuck::cast_slice(values))
}

/// Results on the device.
pub fn results(device: &Device, numbers: &engine_step_results) -> StepResults {
    let engine_step_results { loss, entropy, correct, scored, grad_norm, clip_factor } = *numbers;
    let mut results = StepResults::zeros(device).unwrap();
    let (to, numbers) = (results.address_mut().unwrap(), [loss, entropy, correct, scored, grad_norm, clip_factor]);
    // SAFETY: the struct is these numbers, in this order.
    unsafe { device.driver().upload(to.cast(), bytemuck::cast_slice(&numbers)).unwrap() };
    results
}
