//! sample against the same choice made by sorting: argmax, top-k, top-p, ties, and every way through the kernel.

use engine::device::{DType, Device};
use engine::ops::sample::{Draw, sample};

use crate::checks::check_refusal;
use crate::lists::sample::{Case, cases};
use crate::lists::{random, rng, round, tensor};
use crate::places::{Kind, Place, places};

/// Sums of weights in f32 may differ by this much of the whole.
const TOLERANCE: f64 = 1e-6;

/// The tokens of rows of logits; a row per uniform.
fn run(device: &Device, dtype: DType, logits: &[f64], uniforms: &[f64], draw: Option<&Draw>) -> Vec<u32> {
    let rows = uniforms.len();
    let logits = tensor(device, &[rows, logits.len() / rows], dtype, logits);
    let uniforms: Vec<f32> = uniforms.iter().map(|&u| u as f32).collect();
    sample(&logits, &uniforms, draw).unwrap()
}

/// What can be drawn, in order, with the running sum of the probabilities, by sorting.
fn kept(logits: &[f64], draw: &Draw) -> Vec<(u32, f64)> {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    // -0 and 0 are one.
    let z = |&i: &u32| logits[i as usize] + 0.0;
    order.sort_by(|a, b| z(b).total_cmp(&z(a)).then(a.cmp(b)));
    if draw.top_k > 0 {
        order.truncate(draw.top_k);
    }
    let largest = z(&order[0]);
    let temperature = round(DType::F32, draw.temperature);
    let running = order.iter().scan(0.0, |sum, i| {
        *sum += ((z(i) - largest) / temperature).exp();
        Some(*sum)
    });
    let running: Vec<f64> = running.collect();
    let target = round(DType::F32, draw.top_p) * running[running.len() - 1];
    let last = if draw.top_p < 1.0 { running.iter().position(|&sum| sum >= target) } else { None };
    let keep = last.map_or(order.len(), |last| last + 1);
    let total = running[keep - 1];
    if draw.top_p < 1.0 {
        let margin = running.iter().map(|sum| (sum - target).abs()).fold(f64::INFINITY, f64::min);
        assert!(margin > TOLERANCE * total, "top_p falls on the edge of a token: choose another");
    }
    order.into_iter().zip(running).take(keep).map(|(i, sum)| (i, sum / total)).collect()
}

/// Draws from rows of `v` logits, and looks where in what is kept the tokens lie.
fn check(place: Place, name: &str, logits: &[f64], v: usize, draw: &Draw) {
    let rows = logits.len() / v;
    let uniforms = random(DType::F32, &mut rng(v as u64), rows, 0.5);
    let mut uniforms: Vec<f64> = uniforms.iter().map(|u| round(DType::F32, u + 0.5)).collect();
    // The first and the last token that can be drawn.
    uniforms[0] = 0.0;
    uniforms[rows - 1] = f64::from(1.0 - f32::EPSILON / 2.0);
    let name = format!("{name} at {place:?}");
    let tokens = place.twice(&name, || run(&place.device(), place.dtype, logits, &uniforms, Some(draw)));
    for ((row, &token), &u) in logits.chunks(v).zip(&tokens).zip(&uniforms) {
        let kept = kept(row, draw);
        let at = |u: f64| kept.iter().position(|&(_, sum)| sum > u).unwrap_or(kept.len() - 1);
        let allowed = &kept[at(u - TOLERANCE)..=at(u + TOLERANCE)];
        assert!(allowed.iter().any(|&(i, _)| i == token), "{name}, u {u}: {token}, not of {allowed:?}");
    }
}

#[test]
fn argmax_takes_the_first_of_equals() {
    for place in places() {
        for (r, v) in [(1, 1), (2, 17), (5, 257), (3, 4099), (2, 8192)] {
            let mut logits = random(place.dtype, &mut rng(1), r * v, 8.0);
            for row in 1..r {
                [v / 2, v - 1, v / 3].iter().for_each(|i| logits[row * v + i] = 9.0);
            }
            let tokens = place.twice("argmax", || run(&place.device(), place.dtype, &logits, &vec![0.5; r], None));
            let first = |row: &[f64]| (0..v).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32;
            assert_eq!(tokens, logits.chunks(v).map(first).collect::<Vec<_>>(), "R {r}, V {v} at {place:?}");
        }
    }
}

#[test]
fn argmax_of_what_is_no_number() {
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let rows = [
        [nan, -3.0, -2.0, nan],
        [-inf; 4],
        [nan; 4],
        [-0.0, 0.0, -1.0, 0.0],
        [-5.0, inf, inf, nan],
        [nan, -inf, nan, nan],
    ];
    for place in places() {
        let tokens = run(&place.device(), place.dtype, &rows.concat(), &[0.5; 6], None);
        assert_eq!(tokens, [2, 0, 0, 0, 1, 1], "{place:?}");
    }
}

#[test]
fn draws_equal_those_from_a_sorted_row() {
    for place in places() {
        // The emulator is slow: there half of the cases have one type, half the other.
        let half = |i: usize| place.kind == Kind::Emulated && (i + i / 8) % 2 == usize::from(place.dtype == DType::F32);
        for (i, case) in cases().iter().enumerate().filter(|(i, _)| !half(*i)) {
            let Case { rows, vocabulary, draw } = case;
            let logits = random(place.dtype, &mut rng(i as u64), rows * vocabulary, 8.0);
            check(place, &format!("{case:?}"), &logits, *vocabulary, draw);
        }
    }
}

#[test]
fn of_equals_the_first_are_kept_and_drawn_in_order() {
    let draw = |temperature, top_k, top_p| Draw { temperature, top_k, top_p };
    for place in places() {
        // All alike, more than shared memory holds: 10 are kept, and then 7 of them.
        let (v, rows) = (5000, 3);
        check(place, "equals, top-k", &vec![1.5; v * rows], v, &draw(1.0, 10, 1.0));
        check(place, "equals, top-p", &vec![1.5; v * rows], v, &draw(1.0, 10, 0.65));
        check(place, "equals", &[-0.5; 33 * 3], 33, &draw(1.0, 0, 0.5));
        // Three levels, each of many; -0 and 0 are one.
        let levels: Vec<f64> = (0..v * rows).map(|i| [0.0, -0.0, 1.0, -1.0][i * i % 7 % 4]).collect();
        for (top_k, top_p) in [(900, 0.9905), (2000, 0.8)] {
            check(place, "levels", &levels, v, &draw(0.7, top_k, top_p));
        }
    }
}

#[test]
fn what_is_masked_or_no_number_is_never_drawn() {
    let (v, rows) = (257, 4);
    for place in places() {
        let mut logits = random(place.dtype, &mut rng(5), v * rows, 4.0);
        for (i, z) in logits.iter_mut().enumerate() {
            *z = [*z, f64::NEG_INFINITY, f64::NAN][i % 3];
        }
        let mut uniforms: Vec<f64> = (0..rows).map(|i| i as f64 / rows as f64).collect();
        uniforms[rows - 1] = f64::from(1.0 - f32::EPSILON / 2.0);
        for (top_k, top_p) in [(0, 1.0), (200, 1.0), (0, 0.999)] {
            let draw = Draw { temperature: 2.0, top_k, top_p };
            let tokens = run(&place.device(), place.dtype, &logits, &uniforms, Some(&draw));
            let mut drawn = tokens.iter().enumerate().map(|(row, &token)| logits[row * v + token as usize]);
            assert!(drawn.all(f64::is_finite), "{draw:?} at {place:?}: {tokens:?}");
        }
        let draw = Draw { temperature: 1.0, top_k: 2, top_p: 0.9 };
        assert_eq!(run(&place.device(), place.dtype, &[f64::NAN; 6], &[0.5; 2], Some(&draw)), [0, 0], "{place:?}");
    }
}

#[test]
fn a_temperature_of_0_is_an_error() {
    let draw = Draw { temperature: 0.0, top_k: 0, top_p: 1.0 };
    for place in places() {
        let logits = tensor(&place.device(), &[1, 2], place.dtype, &[1.0, 2.0]);
        let error = sample(&logits, &[0.5], Some(&draw)).unwrap_err().to_string();
        assert!(error.starts_with("sample of R 1, V 2 on `") && error.contains("a temperature of 0"), "{error}");
    }
}

#[test]
fn kernels_refuse_f64() {
    check_refusal("sample", |device| sample(&tensor(device, &[1, 2], DType::F64, &[1.0, 2.0]), &[0.5], None).map(drop));
}
