//! clip: reads every gradient once. They are f32 whatever ops compute in.

use criterion::Criterion;
use engine::device::{DType, Device};
use engine::ops::clip::clip_factor;
use engine::ops::results::StepResults;

use super::lists::clip::model_case;
use super::measure::{alone, tensor, values};

pub fn bench(c: &mut Criterion, device: &Device) {
    let n = model_case();
    alone(c, device, ["clip", "f32"], values(n).throughput(DType::F32), || {
        let (gradients, mut results) = (tensor(device, &[n], DType::F32), StepResults::zeros(device).unwrap());
        Box::new(move || clip_factor(&mut results, &gradients, 1.0).unwrap())
    });
}
