//! cast_stochastic: bf16 copies of weights, rounded up or down at random, on average to the weight itself; the same on every device.

use engine::device::{DType, Tensor};
use half::bf16;

use crate::places::{Place, places};

/// The copy on a place's device after update `step`.
fn copy(place: Place, values: &[f32], step: u64) -> Vec<bf16> {
    let device = place.device();
    let from = Tensor::from_slice(&device, &[values.len()], values);
    let mut to = Tensor::empty(&device, &[values.len()], DType::Bf16).unwrap();
    from.cast_stochastic_into(&mut to, step).unwrap();
    to.download().unwrap()
}

/// Numbers of every size that bf16 cannot hold, an odd count of them, more than a block.
fn values() -> Vec<f32> {
    (0..9_003u32).map(|i| f32::from_bits(0x3000_0000 + i * 0x1357 + 1) * if i % 3 == 0 { -1.0 } else { 1.0 }).collect()
}

#[test]
fn every_device_rounds_alike_and_to_a_neighbour() {
    let (values, host) = (values(), Place { kind: crate::places::Kind::Host, dtype: DType::F32 });
    for step in 1..=8 {
        let expected = copy(host, &values, step);
        for (x, y) in values.iter().zip(&expected) {
            let down = bf16::from_bits((x.to_bits() >> 16) as u16);
            let up = bf16::from_bits(down.to_bits() + 1);
            assert!(*y == down || *y == up, "{x} became {y}");
        }
        for place in places() {
            assert!(copy(place, &values, step) == expected, "{place:?}, step {step}");
        }
    }
}

#[test]
fn the_mean_over_steps_is_the_weight_itself() {
    const STEPS: u64 = 2048;
    let values = [1.0f32 + 1.0 / 512.0, -0.02, 3.0e-5, 0.71, -1.0 - 1.0 / 1024.0];
    for place in places().into_iter().filter(|place| place.dtype == DType::F32) {
        // The emulator is slow; that it rounds as the host does is another test.
        if place.kind != crate::places::Kind::Host {
            continue;
        }
        let mut sums = [0.0f64; 5];
        for step in 1..=STEPS {
            sums.iter_mut().zip(copy(place, &values, step)).for_each(|(sum, y)| *sum += y.to_f64());
        }
        for (x, sum) in values.iter().zip(sums) {
            let x = f64::from(*x);
            // A draw is off by at most one distance of bf16, half of it in the root mean square.
            let distance = x.abs().log2().floor().exp2() / 128.0;
            let off = (sum / STEPS as f64 - x) / (0.5 * distance / (STEPS as f64).sqrt());
            assert!(off.abs() < 4.0, "{x}: {off} standard deviations");
        }
    }
}

#[test]
fn neighbours_and_steps_draw_numbers_of_their_own() {
    let place = Place { kind: crate::places::Kind::Host, dtype: DType::F32 };
    let halfway = vec![1.0f32 + 1.0 / 256.0; 4096];
    let ups = |values: &[bf16]| values.iter().filter(|y| y.to_f64() > 1.0).count();
    let (first, second) = (copy(place, &halfway, 1), copy(place, &halfway, 2));
    for copy in [&first, &second] {
        assert!(ups(copy).abs_diff(2048) < 4 * 32, "{} of 4096 up", ups(copy));
    }
    let same = first.iter().zip(&second).filter(|(a, b)| a == b).count();
    assert!(same.abs_diff(2048) < 4 * 32, "{same} of 4096 rounded as in the step before");
    let follows = first.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!(follows.abs_diff(2048) < 4 * 32, "{follows} of 4095 rounded as their neighbour");
}

#[test]
fn what_bf16_holds_exactly_stays_itself_and_so_do_infinity_and_nan() {
    let values = [0.0f32, -0.0, 1.0, -1.5, 0.0078125, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1.0e-40];
    // Added to its bits, any dither goes over the end: as a number it would become zero.
    let largest_nan = f32::from_bits(0xffff_ffff);
    let values = [&values[..], &[largest_nan]].concat();
    for place in places().into_iter().filter(|place| place.dtype == DType::F32) {
        for step in 1..20 {
            let got = copy(place, &values, step);
            for (x, y) in values.iter().zip(&got).take(7) {
                assert_eq!(x.to_bits() >> 16, u32::from(y.to_bits()), "{place:?}");
            }
            assert!(got[7].is_nan() && got[9].is_nan() && got[8].to_f32().abs() < 2.0e-40, "{place:?}");
        }
    }
}
