//! rmsnorm: forward reads x and writes y; backward reads x and dy and writes dx.

use criterion::Criterion;
use engine::device::Device;

use super::lists::rmsnorm::model_case;
use super::measure::{Bench, values};

pub fn bench(c: &mut Criterion, device: &Device) {
    let case = &model_case();
    let n: usize = case.inputs[0].iter().product();
    Bench { name: "rmsnorm", case, work: [values(2 * n), values(3 * n)] }.run(c, device);
}
