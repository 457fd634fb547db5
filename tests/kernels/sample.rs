//! sample against the same choice made by sorting: argmax, top-k, top-p, ties, and every way through the kernel.

use engine::device::bindings::{engine_dtype, engine_sampling};
use engine::launch;

use crate::array::{Array, BF16, Buffer, F32, kernels, random, stream, twice};

/// Sums of f32 weights may differ by this much of the whole.
const TOLERANCE: f64 = 1e-6;

/// The tokens of rows of `v` logits; a row per uniform.
fn run(dtype: engine_dtype, logits: &[f64], uniforms: &[f64], sampling: Option<engine_sampling>) -> Vec<u32> {
    let r = uniforms.len() as u32;
    let v = logits.len() as u32 / r;
    let (logits, uniforms) = (Array::new(dtype, logits), Array::new(F32, uniforms));
    let mut tokens = Buffer::<u32>::new(r as usize).unwrap();
    let (out, stream) = (tokens.as_mut_ptr(), stream());
    let sampling = sampling.as_ref().map_or(std::ptr::null(), |s| s as *const engine_sampling);
    // SAFETY: arrays of the shapes that engine.h asks for; sampling is host memory.
    unsafe {
        launch!(kernels(), sample { r, v }(out, logits.ptr(), uniforms.ptr(), sampling, r, v, dtype, stream)).unwrap();
    }
    tokens.to_vec()
}

fn sampling(temperature: f64, top_k: u32, top_p: f64) -> engine_sampling {
    engine_sampling { temperature: temperature as f32, top_k, top_p: top_p as f32 }
}

/// What can be drawn, in order, with the running sum of the probabilities, by sorting.
fn kept(logits: &[f64], s: &engine_sampling) -> Vec<(u32, f64)> {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let z = |&i: &u32| logits[i as usize] + 0.0;
    order.sort_by(|a, b| z(b).total_cmp(&z(a)).then(a.cmp(b)));
    if s.top_k > 0 {
        order.truncate(s.top_k as usize);
    }
    let largest = z(&order[0]);
    let weights: Vec<f64> = order.iter().map(|i| ((z(i) - largest) / f64::from(s.temperature)).exp()).collect();
    let sums = |weights: &[f64]| -> Vec<f64> {
        let mut sum = 0.0;
        let sums = weights.iter().map(|w| {
            sum += w;
            sum
        });
        sums.collect()
    };
    let running = sums(&weights);
    let target = f64::from(s.top_p) * running[running.len() - 1];
    let last = if s.top_p < 1.0 { running.iter().position(|&sum| sum >= target) } else { None };
    let keep = last.map_or(order.len(), |last| last + 1);
    let total = running[keep - 1];
    if s.top_p < 1.0 {
        let margin = running.iter().map(|sum| (sum - target).abs()).fold(f64::INFINITY, f64::min);
        assert!(margin > TOLERANCE * total, "top_p falls on the edge of a token: choose another");
    }
    order.into_iter().zip(running).take(keep).map(|(i, sum)| (i, sum / total)).collect()
}

fn check(name: &str, dtype: engine_dtype, logits: &[f64], v: usize, s: engine_sampling) {
    let rows = logits.len() / v;
    let mut uniforms = random(F32, v as u64, rows, 0.5).iter().map(|u| f64::from((u + 0.5) as f32)).collect::<Vec<_>>();
    // The first and the last token that can be drawn.
    uniforms[0] = 0.0;
    uniforms[rows - 1] = f64::from(1.0 - f32::EPSILON / 2.0);
    let tokens = twice(name, || run(dtype, logits, &uniforms, Some(s)));
    for ((row, &token), &u) in logits.chunks(v).zip(&tokens).zip(&uniforms) {
        let kept = kept(row, &s);
        let at = |u: f64| kept.iter().position(|&(_, sum)| sum > u).unwrap_or(kept.len() - 1);
        let allowed = &kept[at(u - TOLERANCE)..=at(u + TOLERANCE)];
        assert!(allowed.iter().any(|&(i, _)| i == token), "{name}, u {u}: {token}, not of {allowed:?}");
    }
}

#[test]
fn argmax_takes_the_first_of_equals() {
    for (r, v) in [(1, 1), (2, 17), (5, 257), (3, 4099), (2, 8192)] {
        for dtype in [F32, BF16] {
            let mut logits = random(dtype, 1, r * v, 8.0);
            for row in 1..r {
                for i in [v / 2, v - 1, v / 3] {
                    logits[row * v + i] = 9.0;
                }
            }
            let tokens = twice("argmax", || run(dtype, &logits, &vec![0.5; r], None));
            let first = |row: &[f64]| (0..v).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32;
            assert_eq!(tokens, logits.chunks(v).map(first).collect::<Vec<_>>(), "{dtype:?} R {r}, V {v}");
        }
    }
}

#[test]
fn argmax_of_what_is_no_number() {
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let rows = [[nan, -3.0, -2.0, nan], [-inf; 4], [nan; 4], [-0.0, 0.0, -1.0, 0.0], [-5.0, inf, inf, nan]];
    assert_eq!(run(F32, &rows.concat(), &[0.5; 5], None), [2, 0, 0, 0, 1]);
}

#[test]
fn draws_equal_those_from_a_sorted_row() {
    // No limits; top-k alone, in shared memory and beyond it; top-p alone; both; more than there are.
    let limits = [(0, 1.0), (1, 1.0), (40, 1.0), (1500, 1.0), (0, 0.7), (64, 0.9), (1025, 0.5), (9000, 0.99)];
    for (v, dtypes) in [(5, [F32, BF16]), (257, [BF16, F32]), (4099, [F32, BF16])] {
        for (i, &(top_k, top_p)) in limits.iter().enumerate() {
            let (dtype, temperature) = (dtypes[i % 2], [1.0, 0.4, 3.0][i % 3]);
            let logits = random(dtype, i as u64, 3 * v, 8.0);
            let name = format!("sample {dtype:?} of V {v}, temperature {temperature}, top_k {top_k}, top_p {top_p}");
            check(&name, dtype, &logits, v, sampling(temperature, top_k, top_p));
        }
    }
}

#[test]
fn of_equals_the_first_are_kept_and_drawn_in_order() {
    // All alike, more than shared memory holds: 10 are kept, and then 7 of them.
    let (v, rows) = (5000, 3);
    check("equals, top-k", F32, &vec![1.5; v * rows], v, sampling(1.0, 10, 1.0));
    check("equals, top-p", BF16, &vec![1.5; v * rows], v, sampling(1.0, 10, 0.65));
    check("equals", BF16, &vec![-0.5; 33 * rows], 33, sampling(1.0, 0, 0.5));
    // Three levels, each of many; -0 and 0 are one.
    let levels: Vec<f64> = (0..v * rows).map(|i| [0.0, -0.0, 1.0, -1.0][i * i % 7 % 4]).collect();
    for (top_k, top_p) in [(900, 0.9905), (2000, 0.8)] {
        check("levels", F32, &levels, v, sampling(0.7, top_k, top_p));
    }
}

#[test]
fn what_is_masked_or_no_number_is_never_drawn() {
    let (v, rows) = (257, 4);
    let mut logits = random(F32, 5, v * rows, 4.0);
    for (i, z) in logits.iter_mut().enumerate() {
        *z = [*z, f64::NEG_INFINITY, f64::NAN][i % 3];
    }
    let uniforms: Vec<f64> = (0..rows).map(|i| i as f64 / rows as f64).collect();
    for (top_k, top_p) in [(0, 1.0), (200, 1.0), (0, 0.999)] {
        let tokens = run(F32, &logits, &uniforms, Some(sampling(2.0, top_k, top_p)));
        let drawn = tokens.iter().enumerate().map(|(row, &token)| logits[row * v + token as usize]);
        assert!(drawn.into_iter().all(f64::is_finite), "top_k {top_k}, top_p {top_p}: {tokens:?}");
    }
    assert_eq!(run(F32, &[f64::NAN; 6], &[0.5; 2], Some(sampling(1.0, 2, 0.9))), [0, 0]);
}

#[test]
fn a_temperature_of_0_is_an_error() {
    let s = sampling(0.0, 0, 1.0);
    let none: *mut std::ffi::c_void = std::ptr::null_mut();
    let (r, v) = (1, 1);
    // SAFETY: it fails before any kernel runs.
    let result = unsafe { launch!(kernels(), sample { r, v }(none.cast(), none, none.cast(), &s, r, v, F32, none)) };
    assert!(result.unwrap_err().to_string().contains("a temperature of 0"));
}
