//! linear: the four products of a layer, forward one product each and backward two; and those of decoding 20 prompts.

use criterion::Criterion;
use engine::device::Device;

use super::lists::linear::{few_rows_cases, model_cases};
use super::measure::{Bench, Work};

pub fn bench(c: &mut Criterion, device: &Device) {
    for (name, case) in model_cases().iter().chain(&few_rows_cases()) {
        let flop = 2 * case.inputs[0][0] * case.params[0].iter().product::<usize>();
        Bench { name: &format!("linear_{name}"), case, work: [Work::Flop(flop), Work::Flop(2 * flop)] }.run(c, device);
    }
}
