//! The CPU's own exp and tanh in f32.

use engine::host::simd::{Real, convert};

/// Every 251st f32 of a range, by bit pattern.
fn floats(from: f32, to: f32) -> impl Iterator<Item = f32> {
    (from.to_bits()..=to.to_bits()).step_by(251).map(f32::from_bits)
}

/// The largest error of `f`, which runs in vectors, and where it is; `error` is of an f(x) and its x.
fn worst(x: impl Iterator<Item = f32>, f: impl Fn(f32) -> f32 + Sync, error: impl Fn(f64, f64) -> f64) -> (f64, f32) {
    let x: Vec<f32> = x.collect();
    let mut y = vec![0.0; x.len()];
    convert(&mut y, &x, f);
    let errors = y.iter().zip(&x).map(|(&y, &x)| (error(y.into(), x.into()), x));
    errors.fold((0.0, 0.0), |worst, e| if e.0 > worst.0 || e.0.is_nan() { e } else { worst })
}

#[test]
fn exp_is_exact_to_three_parts_in_ten_million_where_f32_is_normal() {
    for range in [floats(0.0, 88.0), floats(-0.0, -87.0)] {
        let (error, x) = worst(range, Real::exp, |y, x| (y / x.exp() - 1.0).abs());
        assert!(error < 3e-7, "exp({x}) is {}: relative error {error:e}", Real::exp(x));
    }
}

#[test]
fn exp_ends_in_zero_in_infinity_and_keeps_nan() {
    let exp = |x: f32| Real::exp(x);
    assert_eq!([exp(0.0), exp(-0.0)], [1.0, 1.0]);
    assert_eq!([exp(f32::NEG_INFINITY), exp(-1e30), exp(-104.0), exp(-87.4)], [0.0; 4]);
    assert_eq!([exp(f32::INFINITY), exp(1e30), exp(89.0)], [f32::INFINITY; 3]);
    assert!(exp(f32::NAN).is_nan());
}

#[test]
fn tanh_is_exact_to_a_few_units_in_the_last_place_of_one() {
    for range in [floats(0.0, 1e6), floats(-0.0, -1e6)] {
        let (error, x) = worst(range, Real::tanh, |y, x| (y - x.tanh()).abs());
        assert!(error < 3.0 * f32::EPSILON as f64, "tanh({x}) is {}: error {error:e}", Real::tanh(x));
    }
    assert_eq!([Real::tanh(f32::INFINITY), Real::tanh(f32::NEG_INFINITY)], [1.0f32, -1.0]);
}
