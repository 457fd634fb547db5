//! cast moves what fits exactly and rounds the rest to nearest, ties to even.

use engine::device::driver::engine_dtype;
use engine::device::{DType, Device};
use engine::launch;

use crate::arrays::{array, unwritten};
use crate::checks::check_refusal;
use crate::guarded;
use crate::lists::cast::cases;
use crate::lists::{random, rng, round};
use crate::places::devices;

fn run(device: &Device, values: &[f64], from: DType, to: DType) -> Vec<f64> {
    array(device, from, values).cast(to).unwrap().to_f64()
}

/// Both types that every device has.
const NARROW: [DType; 2] = [DType::F32, DType::Bf16];

fn check_pairs(device: &Device, types: &[DType]) {
    for n in cases() {
        for &from in types {
            for &to in types {
                let values = random(from, &mut rng(n as u64), n, 100.0);
                let expected: Vec<f64> = values.iter().map(|&x| round(to, x)).collect();
                let name = format!("cast of {n} {from:?} to {to:?} on {}", device.driver().name());
                assert!(run(device, &values, from, to) == expected, "{name}");
            }
        }
    }
}

#[test]
fn every_pair_of_types_is_cast_to_nearest() {
    devices().iter().for_each(|device| check_pairs(device, &NARROW));
    check_pairs(&guarded::host(), &[DType::F32, DType::Bf16, DType::F64]);
}

#[test]
fn addresses_that_are_not_aligned_take_the_slow_path() {
    let values = random(DType::F32, &mut rng(1), 41, 1.0);
    // Elements that are skipped of either: 8 are a multiple of 16 bytes.
    for (device, skipped) in devices().iter().flat_map(|device| [(1, 1), (8, 1), (1, 8)].map(|skip| (device, skip))) {
        let (from, mut to) = (array(device, DType::F32, &values), unwritten(device, DType::Bf16, 41));
        let (driver, n, [f32, bf16]) = (device.driver(), 32, NARROW.map(engine_dtype));
        // SAFETY: at least 33 elements lie behind those that are skipped.
        unsafe {
            let to = to.address_mut().unwrap().cast::<u16>().add(skipped.0);
            let from = from.address().cast::<f32>().add(skipped.1);
            launch!(driver, cast { n }(to.cast(), from.cast(), n, bf16, f32, driver.stream())).unwrap();
        }
        let got = to.to_f64();
        let (before, part, after) = (&got[..skipped.0], &got[skipped.0..][..32], &got[skipped.0 + 32..]);
        assert!(before.iter().chain(after).all(|x| x.is_nan()), "{skipped:?} skipped: {got:?}");
        let expected: Vec<f64> = values[skipped.1..][..32].iter().map(|&x| round(DType::Bf16, x)).collect();
        assert_eq!(part, expected, "{skipped:?} skipped on {}", driver.name());
    }
}

#[test]
fn ties_go_to_even_and_the_ends_of_the_range_stay() {
    // bf16 has 8 bits: 1 + 2^-8 lies halfway between 1 and 1 + 2^-7.
    let (tie, step) = (2f64.powi(-8), 2f64.powi(-7));
    let values = [1.0 + tie, 1.0 + 3.0 * tie, -1.0 - tie, 1.0 + tie * 1.001, f64::INFINITY, -0.0, 3.4e38];
    let expected = [1.0, 1.0 + 2.0 * step, -1.0, 1.0 + step, f64::INFINITY, -0.0, f64::INFINITY];
    for device in devices() {
        let got = run(&device, &values, DType::F32, DType::Bf16);
        assert_eq!(got, expected);
        assert!(got[5].is_sign_negative());
        assert!(run(&device, &[f64::NAN], DType::F32, DType::Bf16)[0].is_nan());
        // Memory that nobody wrote: a NaN of ones only, which must not be rounded up to 0.
        let unwritten = unwritten(&device, DType::F32, 9).cast(DType::Bf16).unwrap().to_f64();
        assert!(unwritten.iter().all(|x| x.is_nan()), "{unwritten:?}");
    }
}

#[test]
fn f64_is_rounded_to_bf16_once() {
    // By f32 each of the first two would become a tie and go the wrong way.
    let (tie, little) = (2f64.powi(-8), 2f64.powi(-40));
    let values = [1.0 + tie + little, 1.0 + 3.0 * tie - little, -1.0 - tie - little, 1.0 + tie, 1e300, -f64::INFINITY];
    let expected = [1.0 + 2.0 * tie, 1.0 + 2.0 * tie, -1.0 - 2.0 * tie, 1.0, f64::INFINITY, -f64::INFINITY];
    assert_eq!(run(&guarded::host(), &values, DType::F64, DType::Bf16), expected);
    assert!(run(&guarded::host(), &[f64::NAN], DType::F64, DType::Bf16)[0].is_nan());
}

#[test]
fn kernels_refuse_f64() {
    check_refusal("cast from f64", |device| array(device, DType::F64, &[1.0; 8]).cast(DType::F32).map(drop));
    check_refusal("cast to f64", |device| array(device, DType::F32, &[1.0; 8]).cast(DType::F64).map(drop));
}
