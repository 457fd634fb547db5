//! geglu: forward reads gate and up and writes y; backward reads them and dy and writes both gradients.

use criterion::Criterion;
use engine::device::Device;

use super::lists::geglu::model_case;
use super::measure::{Bench, values};

pub fn bench(c: &mut Criterion, device: &Device) {
    let case = &model_case();
    let n: usize = case.inputs[0].iter().product();
    Bench { name: "geglu", case, work: [values(3 * n / 2), values(5 * n / 2)] }.run(c, device);
}
