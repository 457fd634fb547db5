//! cross_entropy: one product of the scored rows with the vocabulary forward, three with the gradient, which comes with the
//! value: `backward` is both.

use criterion::Criterion;
use engine::device::Device;

use super::lists::cross_entropy::model_case;
use super::measure::{Bench, Work};

pub fn bench(c: &mut Criterion, device: &Device) {
    let of = model_case();
    let rows = of.targets.chunk_by(|a, b| a.row == b.row).count();
    let flop = 2 * rows * of.v * of.d;
    Bench { name: "cross_entropy", case: &of.case(), work: [Work::Flop(flop), Work::Flop(3 * flop)] }.run(c, device);
}
