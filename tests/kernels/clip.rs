//! clip against the CPU op.

use engine::launch;
use engine::ops::clip;
use engine::tensor::{Device, Tensor};

use crate::array::{Array, F32, check, kernels, random, twice};

/// norm, factor
fn run(gradients: &[f64], max_norm: f64) -> [f64; 2] {
    let n = gradients.len() as u64;
    let (mut norm, mut factor) = (Array::empty(F32, 1), Array::empty(F32, 1));
    let mut scratch = Array::empty(F32, gradients.len().div_ceil(16_384));
    let gradients = Array::new(F32, gradients);
    let (out, scratch, stream) = ((norm.mut_ptr(), factor.mut_ptr()), scratch.mut_ptr(), std::ptr::null_mut());
    // SAFETY: arrays of the sizes that engine.h asks for.
    unsafe {
        launch!(
            kernels(),
            clip_factor { n }(out.0, out.1, scratch, gradients.ptr(), std::ptr::null(), n, max_norm as f32, stream)
        )
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
