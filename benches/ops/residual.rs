//! residual_rmsnorm: forward reads h and x and writes the sum and its norm; backward reads x, the sum and their gradients, and writes two.

use criterion::Criterion;
use engine::device::Device;

use super::lists::residual::model_case;
use super::measure::{Bench, values};

pub fn bench(c: &mut Criterion, device: &Device) {
    let case = &model_case();
    let n: usize = case.inputs[0].iter().product();
    Bench { name: "residual_rmsnorm", case, work: [values(4 * n), values(6 * n)] }.run(c, device);
}
