//! cast moves what fits exactly and rounds the rest to nearest, ties to even.

use engine::device::bindings::engine_dtype;
use engine::launch;

use crate::array::{Array, BF16, F32, kernels, random, rounded, stream, twice};

fn run(values: &[f64], to_dtype: engine_dtype, from_dtype: engine_dtype) -> Vec<f64> {
    let (from, mut to) = (Array::new(from_dtype, values), Array::empty(to_dtype, values.len()));
    let (n, stream) = (values.len() as u64, stream());
    // SAFETY: both arrays have n elements.
    unsafe { launch!(kernels(), cast { n }(to.mut_ptr(), from.ptr(), n, to_dtype, from_dtype, stream)).unwrap() };
    to.values()
}

#[test]
fn every_pair_of_types_is_cast_to_nearest() {
    for n in [1, 2, 5, 8, 17, 113, 203, 2048, 4099] {
        for from in [F32, BF16] {
            for to in [F32, BF16] {
                let name = format!("cast of {n} {from:?} to {to:?}");
                let values = random(from, n as u64, n, 100.0);
                assert_eq!(twice(&name, || run(&values, to, from)), rounded(to, &values), "{name}");
            }
        }
    }
}

#[test]
fn addresses_that_are_not_aligned_take_the_slow_path() {
    let values = random(F32, 1, 33, 1.0);
    let (from, mut to) = (Array::new(F32, &values), Array::empty(BF16, 33));
    let (n, stream) = (32, stream());
    // SAFETY: 32 elements lie behind the first of each.
    unsafe {
        let (to, from) = (to.mut_ptr::<u16>().add(1).cast(), from.ptr::<f32>().add(1).cast());
        launch!(kernels(), cast { n }(to, from, n, BF16, F32, stream)).unwrap();
    }
    let got = to.values();
    assert!(got[0].is_nan());
    assert_eq!(got[1..], rounded(BF16, &values[1..]));
}

#[test]
fn ties_go_to_even_and_the_ends_of_the_range_stay() {
    // bf16 has 8 bits: 1 + 2^-8 lies halfway between 1 and 1 + 2^-7.
    let (tie, step) = (2f64.powi(-8), 2f64.powi(-7));
    let values = [1.0 + tie, 1.0 + 3.0 * tie, -1.0 - tie, 1.0 + tie * 1.001, f64::INFINITY, -0.0, 3.4e38];
    let expected = [1.0, 1.0 + 2.0 * step, -1.0, 1.0 + step, f64::INFINITY, -0.0, f64::INFINITY];
    let got = run(&values, BF16, F32);
    assert_eq!(got, expected);
    assert!(got[5].is_sign_negative());
    assert!(run(&[f64::NAN], BF16, F32)[0].is_nan());
    // Memory that nobody wrote: a NaN of ones only, which must not be rounded up to 0.
    let (from, mut to) = (Array::empty(F32, 9), Array::empty(BF16, 9));
    // SAFETY: both arrays have 9 elements.
    unsafe { launch!(kernels(), cast {}(to.mut_ptr(), from.ptr(), 9, BF16, F32, stream())).unwrap() };
    assert!(to.values().iter().all(|x| x.is_nan()));
    assert_eq!(run(&[], BF16, F32), Vec::<f64>::new());
}
