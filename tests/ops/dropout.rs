//! dropout: the same elements everywhere, as many as they should be, and no two keys, products or neighbours alike.

use engine::batch::inputs::Inputs;
use engine::device::driver::engine_dtype;
use engine::device::{DType, Device, Tensor};
use engine::launch;
use engine::ops::dropout::Dropout;

use crate::arrays::{array, indices};
use crate::checks::check_refusal;
use crate::guarded;
use crate::lists::cast::cases;
use crate::lists::dropout::keeps;
use crate::lists::{random, rng, round};
use crate::places::places;

const KEY: [u32; 2] = [0x1234_5678, 7];

/// What dropout with this key leaves of x.
fn left(device: &Device, dtype: DType, x: &[f64], (key, product, p): ([u32; 2], u32, f64)) -> Vec<f64> {
    let inputs = Inputs::new(device, false);
    let dropout = Dropout { key: inputs.push(&key, 2, 0), product, p };
    inputs.send().unwrap();
    let mut x = array(device, dtype, x);
    let y = dropout.of(&x).unwrap().to_f64();
    dropout.apply(&mut x).unwrap();
    assert!(x.to_f64() == y, "in place");
    y
}

/// The host's, of n ones.
fn mask(n: usize, key: [u32; 2], product: u32, p: f64) -> Vec<f64> {
    left(&guarded::host(), DType::F64, &vec![1.0; n], (key, product, p))
}

#[test]
fn every_device_and_type_leaves_the_same_elements() {
    for (n, p) in cases().into_iter().flat_map(|n| [(n, 0.25), (n, 0.9)]) {
        for place in places() {
            let x = random(place.dtype, &mut rng(1), n, 2.0);
            let scale = round(DType::F32, 1.0 / (1.0 - p));
            let kept = |i: usize, x: f64| if keeps(KEY, 3, i as u64, p) { x * scale } else { 0.0 };
            let expected: Vec<f64> =
                x.iter().enumerate().map(|(i, &x)| round(place.dtype, round(DType::F32, kept(i, x)))).collect();
            let got = left(&place.device(), place.dtype, &x, (KEY, 3, p));
            assert!(got == expected, "{n} elements, p {p}, {place:?}");
        }
        let expected = (0..n).map(|i| if keeps(KEY, 3, i as u64, p) { 1.0 / (1.0 - p) } else { 0.0 });
        assert!(mask(n, KEY, 3, p) == expected.collect::<Vec<_>>(), "{n} elements, p {p}");
    }
}

#[test]
fn addresses_that_are_not_aligned_take_the_slow_path() {
    for (place, skipped) in places().into_iter().flat_map(|place| [(1, 1), (8, 1), (1, 8)].map(|skip| (place, skip))) {
        let (device, dtype, size, n) = (place.device(), place.dtype, place.dtype.size(), 32);
        let (mut y, x) = (array(&device, dtype, &[5.0; 41]), array(&device, dtype, &[1.0; 41]));
        let (driver, key) = (device.driver(), indices(&device, &KEY));
        // SAFETY: at least 33 elements lie behind those that are skipped.
        unsafe {
            let to = y.address_mut().unwrap().byte_add(skipped.0 * size);
            let (from, key) = (x.address().byte_add(skipped.1 * size), key.address().cast());
            launch!(driver, dropout { n }(to, from, key, n, 0, 0.5, engine_dtype(dtype), driver.stream())).unwrap();
        }
        let mut expected = vec![5.0; 41];
        expected[skipped.0..][..32].copy_from_slice(&mask(32, KEY, 0, 0.5));
        assert!(y.to_f64() == expected, "{place:?}, {skipped:?} skipped");
    }
}

#[test]
fn mean_and_variance_are_those_of_independent_draws() {
    const N: usize = 1 << 16;
    for (p, key) in [(0.05, [1, 1]), (0.5, [1, 2]), (0.9, [2, 1])] {
        let y = mask(N, key, 1, p);
        let mean = y.iter().sum::<f64>() / N as f64;
        // Of one element: 0 with probability p, else 1 / (1 - p).
        let variance = p / (1.0 - p);
        let off = (mean - 1.0) / (variance / N as f64).sqrt();
        assert!(off.abs() < 4.0, "p {p}: the mean {mean} is {off} standard deviations off");
        let runs: Vec<f64> = y.chunks(64).map(|run| run.iter().sum::<f64>() / 64.0 - 1.0).collect();
        let spread = runs.iter().map(|x| x * x).sum::<f64>() / runs.len() as f64 / (variance / 64.0);
        // A mean of 1,024 squares of about normal numbers: 0.044 is one standard deviation.
        assert!((spread - 1.0).abs() < 0.2, "p {p}: means of 64 vary {spread} times as much as they should");
    }
}

#[test]
fn neighbours_keys_and_products_draw_for_themselves() {
    const N: usize = 1 << 14;
    let first = mask(N, KEY, 5, 0.5);
    let alike = |a: &[f64], b: &[f64]| a.iter().zip(b).filter(|(a, b)| a == b).count();
    // Half of them, and four standard deviations.
    let check = |what: &str, same: usize, of: usize| assert!(same.abs_diff(of / 2) < 4 * 64, "{what}: {same} of {of}");
    for distance in [1, 2, 64, 640] {
        check(&format!("{distance} apart"), alike(&first[distance..], &first), N - distance);
    }
    check("another product", alike(&first, &mask(N, KEY, 6, 0.5)), N);
    check("another first word", alike(&first, &mask(N, [KEY[0] + 1, KEY[1]], 5, 0.5)), N);
    check("another second word", alike(&first, &mask(N, [KEY[0], KEY[1] + 1], 5, 0.5)), N);
}

#[test]
fn without_a_part_to_leave_out_all_stays() {
    for place in places() {
        let x = random(place.dtype, &mut rng(1), 99, 2.0);
        assert!(left(&place.device(), place.dtype, &x, (KEY, 1, 0.0)) == x, "{place:?}");
    }
}

#[test]
fn kernels_refuse_f64() {
    check_refusal("dropout", |device| {
        let inputs = Inputs::new(device, false);
        let dropout = Dropout { key: inputs.push(&KEY, 2, 0), product: 0, p: 0.5 };
        inputs.send()?;
        dropout.apply(&mut Tensor::zeros(device, &[8], DType::F64)?)
    });
}
