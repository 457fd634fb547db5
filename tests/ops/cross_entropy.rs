//! cross_entropy: the head fused with the loss, its entropy and its accuracy. The launcher by itself is in
//! cross_entropy_launcher.rs.

use engine::autograd::Tape;
use engine::batch::tree::Target;
use engine::device::{DType, Device};
use engine::ops::cross_entropy::linear_cross_entropy;
use engine::ops::results::LossSums;

use crate::altered::with_logits_bytes;
use crate::checks::{check_close, check_formula, check_gradients, check_place, check_precision};
use crate::lists::cross_entropy::{CrossEntropy, DIVISOR, all};
use crate::lists::{Case, Pass, Values, gradients, params, round, tensor};
use crate::places::{Place, places};

fn cases() -> Vec<Case> {
    all().into_iter().map(CrossEntropy::case).collect()
}

#[test]
fn the_gradient_equals_central_differences() {
    // A case runs thousands of times.
    let small: Vec<Case> = all().into_iter().filter(|case| case.n * case.v <= 10_000).map(CrossEntropy::case).collect();
    assert!(small.len() >= 9);
    check_gradients(&small);
}

#[test]
fn the_values_equal_the_formula() {
    check_formula(&cases());
}

#[test]
fn f32_on_the_host_is_as_precise_as_f32_can_be() {
    check_precision(&cases());
}

#[test]
fn every_device_and_type_is_as_precise_as_plain_rounding() {
    for place in places() {
        for loss in all() {
            check_place(&loss.clone().case(), place, |plain, values| rounded_inside(&loss, plain, values));
        }
    }
}

/// What plain rounding gives in bf16: the logits and their gradients are rounded, too.
fn rounded_inside(loss: &CrossEntropy, plain: Pass, values: &Values) -> Pass {
    if values.held != DType::Bf16 {
        return plain;
    }
    let expected = loss.formula(&values.all[0], &values.all[1], &|x| round(DType::Bf16, x));
    Pass { outputs: vec![vec![expected.sums.loss / DIVISOR]], gradients: expected.gradients.into(), ..plain }
}

/// The sums, on a tape that records or not.
fn sums(loss: &CrossEntropy, device: &Device, dtype: DType, values: &Values, recording: bool) -> LossSums {
    let (table, params) = params(device, &[vec![loss.v, loss.d]], dtype, &values.all[1..]);
    let mut gradients = gradients(&table, 0.0);
    let mut tape = if recording { Tape::recording(device, &mut gradients) } else { Tape::inference(device) };
    let hidden = tape.var(tensor(device, &[loss.n, loss.d], dtype, &values.all[0]));
    linear_cross_entropy(&mut tape, &hidden, &params[0], &loss.targets, loss.objective()).unwrap()
}

fn in_f32() -> impl Iterator<Item = Place> {
    places().into_iter().filter(|place| place.dtype == DType::F32)
}

#[test]
fn loss_entropy_accuracy_and_count_equal_the_formula_recording_or_not() {
    for loss in [(1, 257, 2), (33, 7, 3), (5, 4099, 5)].map(|(n, v, d)| CrossEntropy::new(n, v, d)) {
        let values = loss.clone().case().values(DType::F32);
        let expected = loss.formula(&values.all[0], &values.all[1], &|x| x).sums;
        for place in in_f32() {
            let value = sums(&loss, &place.device(), place.dtype, &values, false);
            assert_eq!(value, sums(&loss, &place.device(), place.dtype, &values, true), "{place:?}");
            assert_eq!((value.correct, value.scored), (expected.correct, expected.scored), "{place:?}");
            // Logits are off by D roundings, sums of exp by 64 + 16 of them.
            let tolerance = (loss.d + 88) as f64 * f64::from(f32::EPSILON);
            let close = |a: f64, b: f64| (a / b - 1.0).abs() < tolerance;
            let all_close = close(value.loss, expected.loss) && close(value.entropy, expected.entropy);
            assert!(all_close, "{place:?}: {value:?}, expected {expected:?}");
        }
    }
}

#[test]
fn the_first_of_equal_logits_is_the_prediction() {
    let values = Values { held: DType::Bf16, all: vec![vec![1.0], vec![0.5, 3.0, -1.0, 3.0, 3.0]] };
    for place in places() {
        let correct = |id| {
            let loss =
                CrossEntropy { n: 1, v: 5, d: 1, targets: vec![Target { row: 0, id, weight: 2.0 }], smoothing: 0.0 };
            sums(&loss, &place.device(), place.dtype, &values, false).correct
        };
        assert_eq!([correct(0), correct(1), correct(3), correct(4)], [0.0, 2.0, 0.0, 0.0], "{place:?}");
    }
}

#[test]
fn no_target_at_all_is_loss_zero_and_gradient_zero() {
    let loss = CrossEntropy { n: 17, v: 257, d: 3, targets: vec![], smoothing: 0.0 };
    for place in places() {
        let case = loss.clone().case();
        let values = case.values(place.dtype);
        for recording in [false, true] {
            let sums = sums(&loss, &place.device(), place.dtype, &values, recording);
            assert_eq!(sums, LossSums::default(), "{place:?}");
        }
        let pass = case.backward(&place.device(), place.dtype, &values, 0.0);
        assert_eq!(pass.gradients.iter().map(Vec::len).collect::<Vec<_>>(), [17 * 3, 257 * 3]);
        assert!(pass.gradients.iter().flatten().all(|&g| g == 0.0), "{place:?}");
    }
}

#[test]
fn rows_without_a_target_get_no_gradient() {
    let targets = [1, 3].map(|row| Target { row, id: 200, weight: 1.0 });
    let case = CrossEntropy { n: 5, v: 257, d: 3, targets: targets.into(), smoothing: 0.0 }.case();
    for place in places() {
        let pass = case.backward(&place.device(), place.dtype, &case.values(place.dtype), 0.0);
        let touched: Vec<bool> = pass.gradients[0].chunks(3).map(|row| row.iter().any(|&g| g != 0.0)).collect();
        assert_eq!(touched, [false, true, false, true, false], "{place:?}");
    }
}

#[test]
fn logits_of_thousands_neither_overflow_nor_make_nan() {
    let loss = CrossEntropy::new(17, 257, 4);
    let case = Case { amplitude: 50.0, ..loss.clone().case() };
    for place in places() {
        let values = case.values(place.dtype);
        let pass = case.backward(&place.device(), place.dtype, &values, 0.0);
        assert!(pass.outputs.iter().chain(&pass.gradients).flatten().all(|x| x.is_finite()), "{place:?}");
        let got = sums(&loss, &place.device(), place.dtype, &values, false);
        let expected = loss.formula(&values.all[0], &values.all[1], &|x| round(place.dtype, x)).sums;
        // Logits of 10,000 are off by 5e-4, and so is the loss of thousands; an entropy is off by as much times a logit's
        // distance to the largest where that matters, which is some.
        assert!((got.loss / expected.loss - 1.0).abs() < 1e-5, "{place:?}: {got:?}, expected {expected:?}");
        let entropy = (got.entropy - expected.entropy).abs();
        assert!(entropy < 1e-2 * loss.targets.len() as f64, "{place:?}: {got:?}, expected {expected:?}");
    }
}

#[test]
fn a_hidden_state_that_is_not_finite_makes_a_loss_that_is_not_finite() {
    let target = Target { row: 1, id: 200, weight: 1.0 };
    let loss = CrossEntropy { n: 2, v: 257, d: 3, targets: vec![target], smoothing: 0.0 };
    for place in places() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut values = loss.clone().case().values(place.dtype);
            values.all[0][4] = bad;
            for recording in [false, true] {
                let sums = sums(&loss, &place.device(), place.dtype, &values, recording);
                assert!(!sums.loss.is_finite(), "{place:?}, {bad}: {sums:?}");
            }
        }
    }
}

#[test]
fn a_target_outside_the_vocabulary_is_an_error() {
    let (device, target) = (engine::host::device(), Target { row: 0, id: 5, weight: 1.0 });
    let (_table, params) = params(&device, &[vec![5, 1]], DType::F32, &[vec![0.5; 5]]);
    let mut tape = Tape::inference(&device);
    let hidden = tape.var(tensor(&device, &[1, 1], DType::F32, &[1.0]));
    let error = linear_cross_entropy(&mut tape, &hidden, &params[0], &[target], 1.0).unwrap_err();
    assert!(error.report().contains("target 5 is outside the vocabulary of 5"), "{}", error.report());
}

#[test]
fn chunks_of_rows_of_any_size_give_what_one_chunk_gives() {
    // 46 rows have a target.
    let loss = CrossEntropy::new(70, 257, 3);
    let case = loss.clone().case();
    for place in places() {
        let (dtype, values) = (place.dtype, case.values(place.dtype));
        let whole = case.backward(&place.device(), dtype, &values, 0.0);
        let whole_sums = sums(&loss, &place.device(), dtype, &values, true);
        for rows in [1, 7, 45] {
            let device = || with_logits_bytes(place.device(), rows * loss.v * dtype.size());
            let name = format!("{place:?}, chunks of {rows} rows");
            let (value, recorded) = [false, true].map(|r| sums(&loss, &device(), dtype, &values, r)).into();
            assert_eq!(value, recorded, "{name}");
            assert_eq!((value.correct, value.scored), (whole_sums.correct, whole_sums.scored), "{name}");
            let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-12;
            assert!(close(value.loss, whole_sums.loss) && close(value.entropy, whole_sums.entropy), "{name}");
            let pass = case.backward(&device(), dtype, &values, 0.0);
            // A row's logits and their gradient do not depend on its chunk. Sums of 46 terms in f32 in another order.
            let tolerance = 46.0 * f64::from(f32::EPSILON);
            check_close(&name, &pass.gradients[1..], &whole.gradients[1..], tolerance);
            let tolerance = tolerance.max(if dtype == DType::Bf16 { 2f64.powi(-8) } else { 0.0 });
            check_close(&name, &pass.gradients[..1], &whole.gradients[..1], tolerance);
        }
    }
}
