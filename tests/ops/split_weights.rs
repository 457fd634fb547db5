//! split_weights, join_weights: bf16 copies of weights, rounded up or down at random, on average to the weight itself, or to nearest;
//! the same on every device, and back to the bit.

use engine::device::{DType, Device, Tensor};
use engine::launch;
use half::bf16;

use crate::arrays::unwritten;
use crate::guarded;
use crate::places::{Kind, Place, devices, places};

/// Copies and lower halves after update `step`, and the weights again; the arrays copy, lower, from and to begin so many elements
/// later.
fn split_at(device: &Device, values: &[f32], step: u64, skip: [usize; 4]) -> (Vec<bf16>, Vec<u16>, Vec<f32>) {
    let (n, driver, of_copy, of_lower, of_from, of_to) =
        (values.len(), device.driver(), skip[0], skip[1], skip[2], skip[3]);
    let from = Tensor::from_slice(device, &[n + of_from], &[&vec![0.0; of_from][..], values].concat());
    let mut copy = unwritten(device, DType::Bf16, n + of_copy);
    let mut lower = unwritten(device, DType::U16, n + of_lower);
    let mut to = unwritten(device, DType::F32, n + of_to);
    let (count, stream) = (n as u64, driver.stream());
    // SAFETY: arrays of n elements behind those that are skipped.
    unsafe {
        let copy = copy.address_mut().unwrap().cast::<u16>().add(of_copy).cast();
        let lower = lower.address_mut().unwrap().cast::<u16>().add(of_lower).cast();
        let (from, to) =
            (from.address().cast::<f32>().add(of_from), to.address_mut().unwrap().cast::<f32>().add(of_to));
        launch!(driver, split_weights { count }(copy, lower, from.cast(), count, step, stream)).unwrap();
        launch!(driver, join_weights { count }(to.cast(), copy, lower, count, step, stream)).unwrap();
    }
    let (copy, lower, to) = (copy.download::<bf16>(), lower.download::<u16>(), to.download::<f32>());
    (copy.unwrap()[of_copy..].to_vec(), lower.unwrap()[of_lower..].to_vec(), to.unwrap()[of_to..].to_vec())
}

/// The copy on a place's device after update `step`.
fn copy(place: Place, values: &[f32], step: u64) -> Vec<bf16> {
    split_at(&place.device(), values, step, [0; 4]).0
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn weights_come_back_to_the_bit_from_any_address() {
    let values = values();
    // 8 elements of either type are a multiple of 16 bytes.
    let skips = [[0; 4], [8; 4], [1, 8, 8, 8], [8, 1, 8, 8], [8, 8, 1, 8], [8, 8, 8, 1]];
    for step in [0, 1, 2, 77] {
        let expected = split_at(&guarded::host(), &values, step, [0; 4]);
        assert!(bits(&expected.2) == bits(&values), "step {step}");
        for (device, skip) in devices().iter().flat_map(|device| skips.map(|skip| (device, skip))) {
            let name = device.driver().name();
            assert!(split_at(device, &values, step, skip) == expected, "{name}, step {step}, {skip:?} skipped");
        }
    }
}

#[test]
fn before_the_first_update_the_copy_is_the_nearest() {
    // Of each pair of neighbours of bf16 all that lies between them near the tie, and ties of either parity.
    let near = |upper: u32| [0, 1, 0x7ffe, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| f32::from_bits(upper << 16 | low));
    let values: Vec<f32> =
        [0x0000, 0x0001, 0x3f80, 0x3f81, 0xbf80, 0xbf81, 0x7f7e, 0xff7e].into_iter().flat_map(near).collect();
    let nearest: Vec<bf16> = values.iter().map(|&x| bf16::from_f32(x)).collect();
    // A tie that is rounded up cannot be told from the one that is rounded down to the same copy.
    let is_up = |x: &f32| x.to_bits() & 0x1_ffff == 0x1_8000;
    let back: Vec<u32> = values.iter().map(|x| x.to_bits() + u32::from(is_up(x))).collect();
    assert_eq!(values.iter().filter(|x| is_up(x)).count(), 3);
    for device in devices() {
        let (copy, lower, to) = split_at(&device, &values, 0, [0; 4]);
        assert_eq!((copy, bits(&to)), (nearest.clone(), back.clone()), "{}", device.driver().name());
        assert!(lower.iter().zip(&back).all(|(low, x)| *low == *x as u16));
    }
}

/// Numbers of every size that bf16 cannot hold, an odd count of them, more than a block.
fn values() -> Vec<f32> {
    (0..9_003u32).map(|i| f32::from_bits(0x3000_0000 + i * 0x1357 + 1) * if i % 3 == 0 { -1.0 } else { 1.0 }).collect()
}

#[test]
fn every_device_rounds_alike_and_to_a_neighbour() {
    let (values, host) = (values(), Place { kind: Kind::Host, dtype: DType::F32 });
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
        if place.kind != Kind::Host {
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
    let place = Place { kind: Kind::Host, dtype: DType::F32 };
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
        for step in 0..20 {
            let got = copy(place, &values, step);
            for (x, y) in values.iter().zip(&got).take(7) {
                assert_eq!(x.to_bits() >> 16, u32::from(y.to_bits()), "{place:?}");
            }
            assert!(got[7].is_nan() && got[9].is_nan() && got[8].to_f32().abs() < 2.0e-40, "{place:?}");
            let back = split_at(&place.device(), &values, step, [0; 4]).2;
            assert!(bits(&back[..7]) == bits(&values[..7]) && back[7].is_nan() && back[9].is_nan(), "{place:?}");
        }
    }
}
