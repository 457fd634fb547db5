//! adamw: reads and writes weights and moments, and reads gradients. In bf16 the weights are in halves, of as many bytes.

use criterion::Criterion;
use engine::autograd::Params;
use engine::device::{DType, Device};
use engine::ops::adamw::{AdamW, Moments, Plan, adamw};
use engine::ops::results::StepResults;

use super::lists::adamw::{Case, model_case};
use super::measure::{DTYPES, Work, alone, tensor};

pub fn bench(c: &mut Criterion, device: &Device) {
    let case = model_case();
    let n = case.len();
    for (name, dtype) in DTYPES {
        let work = Work::Moves { values: 0, sums: 7 * n };
        alone(c, device, ["adamw", name], work.throughput(dtype), || update(device, &case, dtype));
    }
}

/// One update. Gradients are 0: moments that shrink for long would end as subnormal numbers, which a CPU is slow with.
fn update(device: &Device, case: &Case, dtype: DType) -> Box<dyn FnMut()> {
    let masters = tensor(device, &[case.len()], DType::F32);
    let mut params = Params::new(&case.specs(), masters).unwrap().computed_in(dtype).unwrap();
    let [mut m, mut v, gradients] = [(); 3].map(|()| params.zeros(device).unwrap());
    let mut plan = Plan::new(device, params.spans()).unwrap();
    let hyper = AdamW { learning_rate: 1e-5, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, step: 10 };
    plan.set(&hyper, &params).unwrap();
    // The clip_factor of a gradient of 0 is 1.
    let mut results = StepResults::zeros(device).unwrap();
    engine::ops::clip::clip_factor(&mut results, &gradients, 1.0).unwrap();
    Box::new(move || {
        let moments = Moments { m: &mut m, v: &mut v };
        adamw(&mut params, moments, &gradients, &plan, &results).unwrap();
        params.updated(hyper.step);
    })
}
