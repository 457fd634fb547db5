//! clip: the global norm of the gradients and the factor that limits it.

use engine::device::bindings::{ENGINE_CLIP_RUN, engine_step_results};
use engine::device::{DType, Device};
use engine::ops::clip::{clip_factor, clip_factor_of_sums};
use engine::ops::results::StepResults;

use crate::arrays::{array, results};
use crate::checks::{check_refusal, check_twice_plain};
use crate::guarded;
use crate::lists::clip::cases;
use crate::lists::{random, rng};
use crate::places::places;

const RUN: usize = ENGINE_CLIP_RUN as usize;

/// Norm and factor, beside a loss.
fn run_with_loss(device: &Device, dtype: DType, gradients: &[f64], max_norm: f64, loss: f64) -> [f64; 2] {
    let before =
        engine_step_results { loss, entropy: 2.0, correct: 3.0, scored: 4.0, grad_norm: 5.0, clip_factor: 6.0 };
    let mut results = results(device, &before);
    clip_factor(&mut results, &array(device, dtype, gradients), max_norm).unwrap();
    let after = results.read().unwrap();
    let others = [after.loss, after.entropy, after.correct, after.scored].map(f64::to_bits);
    assert_eq!(others, [loss, 2.0, 3.0, 4.0].map(f64::to_bits), "the other results stay as they are");
    [after.grad_norm, after.clip_factor]
}

fn run(device: &Device, dtype: DType, gradients: &[f64], max_norm: f64) -> [f64; 2] {
    run_with_loss(device, dtype, gradients, max_norm, 1.0)
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn factor(norm: f64, max_norm: f64) -> f64 {
    if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 }
}

fn gradients(n: usize) -> Vec<f64> {
    random(DType::F32, &mut rng(n as u64), n, 3.0)
}

#[test]
fn the_norm_in_f64_is_the_root_of_the_sum_of_squares() {
    for n in cases() {
        let x = gradients(n);
        // 1e-16 an addition, of positive terms.
        let [got, _] = run(&guarded::host(), DType::F64, &x, 0.0);
        assert!((got / norm(&x) - 1.0).abs() < 1e-16 * (n as f64 + 8.0), "norm of {n}");
    }
}

#[test]
fn every_device_is_as_precise_as_plain_rounding() {
    for n in cases() {
        let x = gradients(n);
        for place in places() {
            let exact = norm(&x);
            let [plain, _] = run(&guarded::host(), DType::F32, &x, 0.0);
            for max_norm in [0.0, 1.0, 1e9] {
                let name = format!("clip of {n} to {max_norm} on {:?}", place.kind);
                let [got, clipped] = place.twice(&name, || run(&place.device(), DType::F32, &x, max_norm));
                // At most 64 squares to a running sum and 16 such sums are added in f32: 81 roundings.
                let error = (got / exact - 1.0).abs();
                assert!(error < 81.0 * f64::from(f32::EPSILON), "{name}: relative error {error:.1e}");
                check_twice_plain(&name, &[got], &[exact], &[plain], 0.0);
                assert!((clipped / factor(got, max_norm) - 1.0).abs() < 4.0 * f64::EPSILON, "{name}: {clipped}");
            }
        }
    }
}

#[test]
fn the_factor_brings_a_larger_norm_down_to_the_limit_and_leaves_a_smaller_one() {
    // torch.nn.utils.clip_grad_norm_ divides by norm + 1e-6.
    for place in places() {
        let factor = |norm: f64, max_norm| run(&place.device(), DType::F32, &[norm], max_norm)[1];
        assert_eq!(factor(4.0, 1.0), 1.0 / (4.0 + 1e-6));
        assert_eq!(factor(0.5, 1.0), 1.0);
        assert_eq!(factor(1.0, 1.0), 1.0 / (1.0 + 1e-6));
        assert_eq!(factor(0.0, 1.0), 1.0);
        assert_eq!(factor(1e9, 0.0), 1.0, "a limit of 0 is no limit");
    }
}

#[test]
fn no_gradient_has_norm_0_and_factor_1() {
    for place in places() {
        assert_eq!(run(&place.device(), DType::F32, &[], 1.0), [0.0, 1.0], "{place:?}");
    }
}

#[test]
fn a_norm_that_is_not_finite_gives_factor_nan() {
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    for place in places() {
        for max_norm in [0.0, 1.0] {
            for bad in [nan, inf, -inf] {
                let mut x = vec![1.0; 4 * RUN + 5];
                x[4 * RUN + 3] = bad;
                let [norm, factor] = run(&place.device(), DType::F32, &x, max_norm);
                assert!(!norm.is_finite() && factor.is_nan(), "{bad} to {max_norm} at {place:?}: {norm}, {factor}");
            }
            // Finite elements whose squares are not.
            let [norm, factor] = run(&place.device(), DType::F32, &[1e30, 1e30], max_norm);
            assert!(norm == inf && factor.is_nan(), "1e30 to {max_norm} at {place:?}: {norm}, {factor}");
        }
    }
}

#[test]
fn a_loss_that_is_not_finite_gives_factor_nan() {
    let gradients = [3.0, 4.0];
    for place in places() {
        let with_loss = |loss| run_with_loss(&place.device(), DType::F32, &gradients, 10.0, loss);
        for loss in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            let [norm, factor] = with_loss(loss);
            assert!(norm == 5.0 && factor.is_nan(), "loss {loss} at {place:?}: norm {norm}, factor {factor}");
        }
        assert_eq!(with_loss(-1e300), [5.0, 1.0], "{place:?}");
    }
}

#[test]
fn sums_beyond_the_threads_of_a_block_count() {
    // 1,031 for 1,024 threads; those of a model's gradients are 16 thousand.
    let mut sums = vec![0.0; 1031];
    (sums[5], sums[1030]) = (9.0, 16.0);
    for place in places() {
        let device = place.device();
        let mut results = StepResults::zeros(&device).unwrap();
        clip_factor_of_sums(&mut results, &array(&device, DType::F32, &sums), 0.0).unwrap();
        let results = results.read().unwrap();
        assert_eq!([results.grad_norm, results.clip_factor], [5.0, 1.0], "{place:?}");
    }
}

#[test]
fn runs_are_added_in_f64() {
    // In f32 the 1 of each other run would be lost beside 2^24.
    let mut gradients = vec![0.0; 3 * RUN];
    (gradients[1], gradients[RUN + 2], gradients[2 * RUN + 3]) = (4096.0, 1.0, 1.0);
    for place in places() {
        let [norm, factor] = run(&place.device(), DType::F32, &gradients, 0.0);
        assert_eq!([norm, factor], [16_777_218f64.sqrt(), 1.0], "{place:?}");
    }
}

#[test]
fn kernels_refuse_f64() {
    check_refusal("clip_factor", |device| {
        clip_factor(&mut StepResults::zeros(device)?, &array(device, DType::F64, &[3.0, 4.0]), 1.0)
    });
}
