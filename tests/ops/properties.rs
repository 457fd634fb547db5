//! What every op owes: its formula's values, f32 close to f64, and the same bits each time on any number of threads.

use engine::host::simd::Real;

use crate::cases::{Case, Pass, poisoned_device};

/// f64 outputs equal the formula's. Both round at 1.1e-16 an operation; four roundings a term are allowed for.
pub fn check_formula(cases: &[Case]) {
    for case in cases {
        let values = case.values();
        let (inputs, params) = values.split_at(case.inputs.len());
        let (got, expected) = (case.forward::<f64>(&poisoned_device(), &values), (case.formula)(inputs, params));
        check_close(&format!("{}, against its formula", case.name), &got, &expected, 4.0 * tolerance::<f64>(case));
    }
}

/// Outputs and gradients in f32 lie near those in f64.
///
/// A sum of n terms that is kept in f32 is off by up to n units in the last place of its largest partial sum, which is
/// about the largest element of the result; the factors of a term are off by a few more (exp and the like by 3 each).
pub fn check_precision(cases: &[Case]) {
    for case in cases {
        let values = case.values();
        let wide = case.backward::<f64>(&poisoned_device(), &values, 0.0);
        let narrow = case.backward::<f32>(&poisoned_device(), &values, 0.0);
        let tolerance = 4.0 * tolerance::<f32>(case);
        check_close(&format!("{}, f32 output", case.name), &narrow.outputs, &wide.outputs, tolerance);
        check_close(&format!("{}, f32 gradient", case.name), &narrow.gradients, &wide.gradients, tolerance);
    }
}

/// Forward and backward in f32 give the same bits again, and on 1 thread and on 3.
pub fn check_repeats(cases: &[Case]) {
    for case in cases {
        let values = case.values();
        let pass = || case.backward::<f32>(&poisoned_device(), &values, 0.0);
        let first = pass();
        assert!(bits(&first) == bits(&pass()), "{}: a second run differs", case.name);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert!(bits(&first) == bits(&pool.install(pass)), "{}: {threads} threads differ", case.name);
        }
    }
}

/// Units in the last place: one a term, and eight for what surrounds the sum.
fn tolerance<T: Real>(case: &Case) -> f64 {
    let ulp = if T::DTYPE.size() == 4 { f32::EPSILON as f64 } else { f64::EPSILON };
    (case.terms + 8) as f64 * ulp
}

/// Every list within `tolerance` of the expected one, in units of its largest element.
pub fn check_close(name: &str, got: &[Vec<f64>], expected: &[Vec<f64>], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{name}");
    for (t, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got.len(), expected.len(), "{name} {t}");
        let largest = expected.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        for (i, (a, b)) in got.iter().zip(expected).enumerate() {
            let error = (a - b).abs();
            assert!(error <= tolerance * largest, "{name} {t}: element {i} is {a}, expected {b} (largest {largest})");
        }
    }
}

fn bits(pass: &Pass) -> Vec<u64> {
    pass.outputs.iter().chain(&pass.gradients).flatten().map(|x| x.to_bits()).collect()
}
