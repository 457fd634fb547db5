//! Gradients in f64 against fourth-order central differences, every element of every tensor.

use engine::tensor::Device;
use rand::seq::index::sample;

use crate::cases::{Case, rng};

/// Worst relative error allowed.
pub const TOLERANCE: f64 = 1e-6;

/// Tensors with more elements than this are checked at this many, drawn at random.
const MOST: usize = 3000;

/// A power of two, so that x + h is exact. The formula's own error is h^4/30 times the fifth derivative (2e-15 of it),
/// that of rounding 1e-16 of the objective over h (2e-13 of it).
const STEP: f64 = 1.0 / 2048.0;

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

/// Compares a gradient with central differences of `objective(i, delta)`: the objective with `delta` added to element i.
///
/// The relative error's divisor is at least 1e-3 of the largest element, below which differences are mostly rounding.
pub fn compare(name: &str, gradient: &[f64], mut objective: impl FnMut(usize, f64) -> f64) {
    let largest = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()));
    let elements: Vec<usize> = match gradient.len() {
        n if n > MOST => sample(&mut rng(3), n, MOST).into_vec(),
        n => (0..n).collect(),
    };
    let mut worst = (0.0, 0, 0.0, 0.0);
    for i in elements {
        let near = objective(i, STEP) - objective(i, -STEP);
        let far = objective(i, 2.0 * STEP) - objective(i, -2.0 * STEP);
        let (numeric, analytic) = ((8.0 * near - far) / (12.0 * STEP), gradient[i]);
        let divisor = numeric.abs().max(analytic.abs()).max(1e-3 * largest);
        let error = if divisor == 0.0 { 0.0 } else { (numeric - analytic).abs() / divisor };
        let error = if error.is_nan() { f64::INFINITY } else { error };
        if error > worst.0 {
            worst = (error, i, analytic, numeric);
        }
    }
    let (error, i, analytic, numeric) = worst;
    assert!(
        error < TOLERANCE,
        "{name}: element {i} is {analytic}, by differences {numeric} (relative error {error:.1e})"
    );
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
