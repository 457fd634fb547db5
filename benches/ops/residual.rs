//! residual_rmsnorm: forward reads h and x and writes y; backward reads x and dy and writes dx.

use criterion::Criterion;
use engine::device::Device;

use crate::lists::residual::model_case;
use crate::measure::{Bench, values};

pub fn bench(c: &mut Criterion, device: &Device) {
    let case = &model_case();
    let n: usize = case.inputs[0].iter().product();
    Bench { name: "residual_rmsnorm", case, work: [values(3 * n), values(3 * n)] }.run(c, device);
}
