//! sample: the largest logit, and a draw as the model's generation_config.json says. In bytes of the logits, read once.

use criterion::Criterion;
use engine::device::Device;
use engine::ops::sample::sample;

use super::lists::sample::model_case;
use super::measure::{DTYPES, alone, tensor, values};

pub fn bench(c: &mut Criterion, device: &Device) {
    let case = model_case();
    let shape = [case.rows, case.vocabulary];
    for (how, draw) in [("greedy", None), ("drawn", Some(case.draw))] {
        for (name, dtype) in DTYPES {
            let work = values(case.rows * case.vocabulary).throughput(dtype);
            alone(c, device, ["sample", &format!("{how}/{name}")], work, || {
                let (logits, uniforms) = (tensor(device, &shape, dtype), vec![0.5; case.rows]);
                Box::new(move || drop(sample(&logits, &uniforms, draw.as_ref()).unwrap()))
            });
        }
    }
}
