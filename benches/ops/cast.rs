//! cast and add: elements read and written.

use criterion::Criterion;
use engine::device::{DType, Device, Tensor};

use super::lists::cast::model_case;
use super::measure::{DTYPES, Work, alone, tensor, values};

pub fn bench(c: &mut Criterion, device: &Device) {
    let n = model_case();
    let both = Work::Moves { values: n, sums: n }.throughput(DType::Bf16);
    for (name, from, to) in [("f32_to_bf16", DType::F32, DType::Bf16), ("bf16_to_f32", DType::Bf16, DType::F32)] {
        alone(c, device, ["cast", name], both.clone(), || {
            let (x, mut y) = pair(device, n, from, to);
            Box::new(move || x.cast_into(&mut y).unwrap())
        });
    }
    for (name, dtype) in DTYPES {
        alone(c, device, ["add", name], values(3 * n).throughput(dtype), || {
            // Nothing is added in the end: a sum that grows would reach infinity.
            let (term, mut sum) = (Tensor::zeros(device, &[n], dtype).unwrap(), tensor(device, &[n], dtype));
            Box::new(move || sum.add(&term).unwrap())
        });
    }
}

fn pair(device: &Device, n: usize, from: DType, to: DType) -> (Tensor, Tensor) {
    (tensor(device, &[n], from), tensor(device, &[n], to))
}
