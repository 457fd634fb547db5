//! clip against the CPU op.

use engine::device::{Device, Tensor};
use engine::launch;
use engine::ops::clip;

use crate::array::{Array, Buffer, F32, check, kernels, random, stream, twice};

/// norm, factor
fn run(gradients: &[f64], max_norm: f64) -> [f64; 2] {
    run_with_loss(gradients, max_norm, None)
}

fn run_with_loss(gradients: &[f64], max_norm: f64, loss: Option<f64>) -> [f64; 2] {
    let loss = loss.map(|loss| Buffer::from_slice(&[loss]).unwrap());
    let loss = loss.as_ref().map_or(std::ptr::null(), |loss| loss.as_ptr());
    let n = gradients.len() as u64;
    let (mut norm, mut factor) = (Array::empty(F32, 1), Array::empty(F32, 1));
    let mut scratch = Array::empty(F32, gradients.len().div_ceil(16_384));
    let gradients = Array::new(F32, gradients);
    let (out, scratch, stream) = ((norm.mut_ptr(), factor.mut_ptr()), scratch.mut_ptr(), stream());
    // SAFETY: arrays of the sizes that engine.h asks for.
    unsafe {
        launch!(kernels(), clip_factor { n }(out.0, out.1, scratch, gradients.ptr(), loss, n, max_norm as f32, stream))
            .unwrap();
    }
    [norm.values()[0], factor.values()[0]]
}

#[test]
fn the_norm_and_the_factor_equal_the_cpus() {
    let device = Device::cpu();
    for n in [1, 2, 5, 113, 16_384, 16_385, 100_003] {
        let gradients = random(F32, n as u64, n, 0.3);
        let exact = clip::global_norm(&Tensor::from_slice(&device, &[n], &gradients));
        let single: Vec<f32> = gradients.iter().map(|&g| g as f32).collect();
        let plain = clip::global_norm(&Tensor::from_slice(&device, &[n], &single));
        for max_norm in [0.0, 1.0, 1e9] {
            let name = format!("clip of {n} to {max_norm}");
            let [norm, factor] = twice(&name, || run(&gradients, max_norm));
            check(&name, &[norm], &[exact], &[plain]);
            let factors = [exact, plain].map(|norm| clip::clip_factor(norm, max_norm));
            check(&name, &[factor], &factors[..1], &factors[1..]);
        }
    }
}

#[test]
fn no_gradient_has_norm_0_and_factor_1() {
    assert_eq!(run(&[], 1.0), [0.0, 1.0]);
}

#[test]
fn a_norm_of_nan_is_not_taken_for_a_small_one() {
    let [norm, factor] = run(&[1.0, f64::NAN, 2.0], 1.0);
    assert!(norm.is_nan() && factor.is_nan());
}

#[test]
fn a_step_whose_loss_or_norm_is_not_finite_has_factor_nan() {
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    for loss in [inf, -inf, nan] {
        let [norm, factor] = run_with_loss(&[3.0, 4.0], 10.0, Some(loss));
        assert!(norm == 5.0 && factor.is_nan(), "loss {loss}: norm {norm}, factor {factor}");
    }
    assert_eq!(run_with_loss(&[3.0, 4.0], 10.0, Some(-1e300)), [5.0, 1.0]);
    // Infinite itself, and finite elements whose squares are not.
    for gradients in [[1.0, inf], [1e30, 1e30]] {
        for max_norm in [0.0, 1.0] {
            let [norm, factor] = run(&gradients, max_norm);
            assert!(norm == inf && factor.is_nan(), "{gradients:?} to {max_norm}: norm {norm}, factor {factor}");
        }
    }
}

#[test]
fn runs_beyond_the_threads_of_a_block_count() {
    // 257 runs for 256 threads; of a model's gradients there are 16 thousand.
    let mut gradients = vec![0.0; 256 * 16_384 + 8];
    (gradients[5], gradients[256 * 16_384 + 7]) = (3.0, 4.0);
    assert_eq!(run(&gradients, 0.0), [5.0, 1.0]);
}
