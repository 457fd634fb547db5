//! A gradient in f64 against fourth-order central differences of what it is the gradient of.

use rand::SeedableRng;
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;

/// Worst relative error allowed.
const TOLERANCE: f64 = 1e-6;

/// Tensors of more elements than the first are checked at as many as the second, drawn at random.
const ALL_OR_SOME: (usize, usize) = (3000, 600);

/// A power of two, so that x + h is exact. Halving it once more makes the worst cases worse: rounding (1e-16 of the
/// objective, over h) then outweighs the difference formula's own error (h^4/30 times the fifth derivative).
const STEP: f64 = 1.0 / 8192.0;

/// Compares a gradient with central differences of `objective(i, delta)`: the objective with `delta` added to element i.
///
/// The relative error's divisor is at least 1e-3 of the largest element, below which differences are mostly rounding.
pub fn compare(name: &str, gradient: &[f64], mut objective: impl FnMut(usize, f64) -> f64) {
    let largest = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()));
    let elements: Vec<usize> = match gradient.len() {
        n if n > ALL_OR_SOME.0 => sample(&mut ChaCha8Rng::seed_from_u64(3), n, ALL_OR_SOME.1).into_vec(),
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
