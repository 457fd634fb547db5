//! mlp: three products and geglu forward, twice those products backward. On a GPU also of many rows, joined and not: what says whether the own
//! products gain what they should.

use criterion::Criterion;
use engine::device::Device;

use super::lists::Case;
use super::lists::mlp::{many_rows_cases, model_case};
use super::measure::{Bench, Work};

pub fn bench(c: &mut Criterion, device: &Device) {
    run(c, device, "mlp", &model_case());
    if !device.driver().is_host() {
        many_rows_cases().iter().for_each(|(name, case)| run(c, device, name, case));
    }
}

fn run(c: &mut Criterion, device: &Device, name: &str, case: &Case) {
    let flop = 2 * case.inputs[0][0] * case.params.iter().map(|shape| shape.iter().product::<usize>()).sum::<usize>();
    Bench { name, case, work: [Work::Flop(flop), Work::Flop(2 * flop)] }.run(c, device);
}
