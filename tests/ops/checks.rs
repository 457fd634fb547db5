//! What every case owes, whatever the op: its formula's values, its gradient, and on every device in every type the precision of
//! plain rounding and the same bits each time.

use engine::autograd::{Rounding, Tape};
use engine::device::{DType, Device};
use engine::error::Result;

use crate::differences::compare;
use crate::guarded;
use crate::lists::{Case, Pass, Values, round};
use crate::places::{Place, devices, places};

/// `checks!(list())`: a test of each kind over the cases of a list. `checks!(small(), all())`: the gradient, which is the
/// forward again and again, over the first list alone.
#[macro_export]
macro_rules! checks {
    ($cases:expr) => {
        $crate::checks!($cases, $cases);
    };
    ($small:expr, $cases:expr) => {
        #[test]
        fn the_gradient_equals_central_differences() {
            $crate::checks::check_gradients(&$small);
        }

        #[test]
        fn the_values_equal_the_formula() {
            $crate::checks::check_formula(&$cases);
        }

        #[test]
        fn f32_on_the_host_is_as_precise_as_f32_can_be() {
            $crate::checks::check_precision(&$cases);
        }

        #[test]
        fn every_device_and_type_is_as_precise_as_plain_rounding() {
            $crate::checks::check_places(&$cases);
        }
    };
}

/// Where gradients of parameters begin in [`check_place`]: what is added to them is rounded at that size.
const START: f64 = 0.25;

/// Every gradient in f64 against central differences.
pub fn check_gradients(cases: &[Case]) {
    for case in cases {
        let device = engine::host::device();
        let mut values = case.values(DType::F64);
        // Parameter gradients start at 1: an op that writes where it should add is caught.
        let pass = case.backward(&device, DType::F64, &values, 1.0);
        for (t, gradient) in pass.gradients.iter().enumerate() {
            compare(&format!("{}, {}", case.name, tensor_name(case, t)), gradient, |i, delta| {
                values.all[t][i] += delta;
                let outputs = case.forward(&device, DType::F64, &values);
                values.all[t][i] -= delta;
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

/// f64 outputs equal the formula's. Both round at 1.1e-16 an operation; four roundings a term are allowed for.
pub fn check_formula(cases: &[Case]) {
    for case in cases {
        let values = case.values(DType::F64);
        let (inputs, params) = case.split(&values);
        let got = case.forward(&guarded::host(), DType::F64, &values);
        let expected = (case.formula)(inputs, params);
        let tolerance = 4.0 * tolerance(case, f64::EPSILON);
        check_close(&format!("{}, against its formula", case.name), &got, &expected, tolerance);
    }
}

/// Outputs and gradients in f32 lie near those in f64.
///
/// A sum of n terms that is kept in f32 is off by up to n units in the last place of its largest partial sum, which is
/// about the largest element of the result; the factors of a term are off by a few more (exp and the like by 3 each).
pub fn check_precision(cases: &[Case]) {
    for case in cases {
        let values = case.values(DType::F32);
        let wide = case.backward(&guarded::host(), DType::F64, &values, 0.0);
        let narrow = case.backward(&guarded::host(), DType::F32, &values, 0.0);
        let tolerance = 4.0 * tolerance(case, f64::from(f32::EPSILON));
        check_close(&format!("{}, f32 output", case.name), &narrow.outputs, &wide.outputs, tolerance);
        check_close(&format!("{}, f32 gradient", case.name), &narrow.gradients, &wide.gradients, tolerance);
    }
}

/// Units in the last place: one a term, and eight for what surrounds the sum.
fn tolerance(case: &Case, ulp: f64) -> f64 {
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

/// On every device, in every type, twice: outputs and gradients are at most twice as far from f64 as those of the host in
/// f32, rounded to the type. The same bits each time.
pub fn check_places(cases: &[Case]) {
    for place in places() {
        for case in cases {
            check_place(case, place, |plain, _| plain);
        }
    }
}

/// [`check_places`] of what is two ops, one after the other: plain rounding rounds what passes between them, too.
pub fn check_places_of_two(cases: &[Case]) {
    for place in places() {
        for case in cases {
            check_place(case, place, |plain, values| match values.held {
                DType::Bf16 => {
                    let rounding = Rounding::Bf16;
                    rounded(
                        case,
                        case.backward_rounded(&guarded::host(), DType::F32, values, START, rounding),
                        place.dtype,
                    )
                }
                _ => plain,
            });
        }
    }
}

/// [`check_places`] of one case, with another idea of what plain rounding gives: `plain` gets what this check takes for it
/// (f32, rounded) and the values.
pub fn check_place(case: &Case, place: Place, plain: impl Fn(Pass, &Values) -> Pass) {
    let name = format!("{} in {:?} on {:?}", case.name, place.dtype, place.kind);
    let values = case.values(place.dtype);
    let got = place.twice(&name, || case.backward(&place.device(), place.dtype, &values, START));
    let [exact, narrow] = [DType::F64, DType::F32].map(|dtype| case.backward(&guarded::host(), dtype, &values, START));
    let narrow = plain(rounded(case, narrow, place.dtype), &values);
    let pairs = [("output", &got.outputs, &exact.outputs, &narrow.outputs)];
    let pairs = pairs.into_iter().chain([("gradient", &got.gradients, &exact.gradients, &narrow.gradients)]);
    for (what, got, exact, plain) in pairs {
        assert_eq!(got.len(), exact.len(), "{name}");
        for (t, ((got, exact), plain)) in got.iter().zip(exact).zip(plain).enumerate() {
            check_twice_plain(&format!("{what} {t} of {name}"), got, exact, plain, START);
        }
    }
}

/// Outputs and gradients of activations in `dtype`; gradients of parameters stay in f32.
fn rounded(case: &Case, pass: Pass, dtype: DType) -> Pass {
    let round = |values: &Vec<f64>| values.iter().map(|&x| round(dtype, x)).collect::<Vec<_>>();
    let mut gradients = pass.gradients.clone();
    gradients[..case.inputs.len()].iter_mut().for_each(|values| *values = round(values));
    Pass { outputs: pass.outputs.iter().map(round).collect(), gradients, ..pass }
}

/// Passes when the error is at most twice that of `plain`, plus one rounding in f32 of the largest element (or of what it
/// was added to). Errors are the largest over the elements, against f64.
pub fn check_twice_plain(name: &str, got: &[f64], exact: &[f64], plain: &[f64], start: f64) {
    assert_eq!(got.len(), exact.len(), "{name}");
    // NaN counts as infinitely wrong.
    let distance = |a: &f64, b: &f64| if (a - b).is_nan() { f64::INFINITY } else { (a - b).abs() };
    let error = |x: &[f64]| x.iter().zip(exact).map(|(a, b)| distance(a, b)).fold(0.0, f64::max);
    let largest = exact.iter().fold(start, |m, x| m.max(x.abs()));
    let (error, plain) = (error(got), error(plain));
    let allowed = 2.0 * plain + largest * f64::from(f32::EPSILON);
    assert!(error <= allowed, "{name}: error {error:.3e}, allowed {allowed:.3e} (plain {plain:.3e})");
}

/// Every device that runs kernels says that they do not compute in f64.
pub fn check_refusal(name: &str, run: impl Fn(&Device) -> Result<()>) {
    for device in devices().iter().filter(|device| !device.driver().is_host()) {
        let said = run(device).map_or_else(|error| error.to_string(), |()| "nothing".into());
        assert!(said.contains("no kernel computes in dtype 2"), "{name} in f64 says: {said}");
    }
}

/// [`check_refusal`] of a case's forward.
pub fn check_f64_is_refused(case: &Case) {
    check_refusal(&case.name, |device| {
        let values = case.values(DType::F64);
        let (inputs, params) = case.split(&values);
        let (_table, params) = crate::lists::params(device, &case.params, DType::F64, params);
        let mut tape = Tape::inference(device);
        let vars = case.place(&mut tape, DType::F64, inputs);
        (case.run)(&mut tape, &vars, &params).map(drop)
    });
}
