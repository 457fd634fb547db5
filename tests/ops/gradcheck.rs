//! Every gradient of every case of an op against central differences.

use engine::device::Device;

use crate::cases::Case;
use crate::differences::compare;

/// Compares every gradient of every case with central differences.
pub fn check_gradients(cases: &[Case]) {
    for case in cases {
        let device = Device::cpu();
        let mut values = case.values();
        // Parameter gradients start at 1: an op that writes where it should add is caught.
        let pass = case.backward::<f64>(&device, &values, 1.0);
        for (t, gradient) in pass.gradients.iter().enumerate() {
            let name = format!("{}, {}", case.name, tensor_name(case, t));
            compare(&name, gradient, |i, delta| {
                values[t][i] += delta;
                let outputs = case.forward::<f64>(&device, &values);
                values[t][i] -= delta;
                inner(&outputs, &pass.coefficients)
            });
        }
    }
}

fn inner(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| a * b).sum()
}

fn tensor_name(case: &Case, t: usize) -> String {
    match t.checked_sub(case.inputs.len()) {
        None => format!("input {t}"),
        Some(p) => format!("parameter {p}"),
    }
}
