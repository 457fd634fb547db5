//! add: sum += term, for a gradient that arrives from a second place.

use engine::device::driver::engine_dtype;
use engine::device::{DType, Device};
use engine::launch;

use crate::arrays::array;
use crate::checks::check_refusal;
use crate::guarded;
use crate::lists::cast::cases;
use crate::lists::{random, rng, round};
use crate::places::places;

/// A sum and a term of n elements.
fn numbers(dtype: DType, n: usize) -> [Vec<f64>; 2] {
    [1, 2].map(|seed| random(dtype, &mut rng(seed), n, 100.0))
}

/// Their sum: added in A, rounded once.
fn expected(dtype: DType, [sum, term]: &[Vec<f64>; 2]) -> Vec<f64> {
    sum.iter().zip(term).map(|(a, b)| round(dtype, round(dtype.accumulator(), a + b))).collect()
}

fn check(device: &Device, dtype: DType, n: usize) {
    let numbers = numbers(dtype, n);
    let [mut sum, term] = numbers.each_ref().map(|values| array(device, dtype, values));
    sum.add(&term).unwrap();
    assert!(sum.to_f64() == expected(dtype, &numbers), "add of {n} {dtype:?} on {}", device.driver().name());
    assert!(term.to_f64() == numbers[1], "the term stays");
}

#[test]
fn sums_are_rounded_once() {
    for n in cases() {
        places().iter().for_each(|place| check(&place.device(), place.dtype, n));
        check(&guarded::host(), DType::F64, n);
    }
}

#[test]
fn addresses_that_are_not_aligned_take_the_slow_path() {
    // Elements that are skipped of the sum and of the term: 8 are a multiple of 16 bytes.
    for (place, skipped) in places().into_iter().flat_map(|place| [(1, 1), (8, 1), (1, 8)].map(|skip| (place, skip))) {
        let (device, dtype, size, n) = (place.device(), place.dtype, place.dtype.size(), 32);
        let numbers = numbers(dtype, 41);
        let [mut sum, term] = numbers.each_ref().map(|values| array(&device, dtype, values));
        let driver = device.driver();
        // SAFETY: at least 33 elements lie behind those that are skipped.
        unsafe {
            let (to, from) = (sum.address_mut().unwrap().byte_add(skipped.0 * size), term.address());
            let from = from.byte_add(skipped.1 * size);
            launch!(driver, add { n }(to, from, n, engine_dtype(dtype), driver.stream())).unwrap();
        }
        let [part, term] = [(0, skipped.0), (1, skipped.1)].map(|(i, skip)| numbers[i][skip..][..32].to_vec());
        let mut all = numbers[0].clone();
        all[skipped.0..][..32].copy_from_slice(&expected(dtype, &[part, term]));
        assert!(sum.to_f64() == all, "{place:?}, {skipped:?} skipped");
    }
}

#[test]
fn infinity_and_nan_stay_what_they_are() {
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    for place in places() {
        let (device, numbers) = (place.device(), [[inf, 1.0, nan, inf], [1.0, -inf, 1.0, -inf]]);
        let [mut sum, term] = numbers.map(|values| array(&device, place.dtype, &values));
        sum.add(&term).unwrap();
        let got = sum.to_f64();
        assert!(got[0] == inf && got[1] == -inf && got[2].is_nan() && got[3].is_nan(), "{place:?}: {got:?}");
    }
}

#[test]
fn a_sum_that_somebody_else_holds_is_an_error() {
    let device = engine::host::device();
    let mut sum = array(&device, DType::F32, &[1.0, 2.0]);
    let (view, term) = (sum.view(1, &[1]), array(&device, DType::F32, &[3.0, 4.0]));
    let error = sum.add(&term).unwrap_err();
    assert_eq!(error.to_string(), "internal: a tensor of shape [2] is written while it is shared");
    assert_eq!(view.to_f64(), [2.0]);
}

#[test]
fn kernels_refuse_f64() {
    check_refusal("add", |device| {
        let term = array(device, DType::F64, &[1.0; 8]);
        array(device, DType::F64, &[1.0; 8]).add(&term)
    });
}
