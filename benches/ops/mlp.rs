//! mlp: three products and geglu forward, twice those products backward.

use criterion::Criterion;
use engine::device::Device;

use super::lists::mlp::model_case;
use super::measure::{Bench, Work};

pub fn bench(c: &mut Criterion, device: &Device) {
    let case = &model_case();
    let flop = 2 * case.inputs[0][0] * case.params.iter().map(|shape| shape.iter().product::<usize>()).sum::<usize>();
    Bench { name: "mlp", case, work: [Work::Flop(flop), Work::Flop(2 * flop)] }.run(c, device);
}
