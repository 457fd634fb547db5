//! cross_entropy against its formula in f64, at odd vocabularies and rows with several targets.

use engine::device::bindings::engine_dtype;
use engine::host::simd::Real;
use engine::launch;

use crate::array::{Array, BF16, Buffer, F32, check, kernels, random, rounded, stream, twice};

const SCALE: f64 = 0.125;

/// Rows of logits, and the targets of each: (id, weight).
struct Case {
    dtype: engine_dtype,
    v: u32,
    logits: Vec<f64>,
    targets: Vec<Vec<(u32, f64)>>,
}

impl Case {
    fn new(dtype: engine_dtype, r: u32, v: u32) -> Self {
        let mut logits = random(dtype, 1, (r * v) as usize, 8.0);
        let mut targets = Vec::new();
        for row in 0..r {
            let first = row * 31 % v;
            targets.push(vec![(first, 1.0 + f64::from(row % 3))]);
            if row % 2 == 1 && v > 2 {
                targets[row as usize].push(((first + v / 2) % v, 2.0));
            }
            // A peak on some targets, twice the same so that the first of equals must win.
            if row % 3 == 2 {
                logits[(row * v + first) as usize] = 9.0;
                logits[(row * v + (first + 1) % v) as usize] = 9.0;
            }
        }
        Self { dtype, v, logits, targets }
    }

    /// loss, entropy, correct, weight; and the gradient. In type T, sums in f64.
    fn formula<T: Real>(&self) -> ([f64; 4], Vec<f64>) {
        let (mut sums, mut gradient) = ([0.0; 4], Vec::new());
        for (z, targets) in self.logits.chunks(self.v as usize).zip(&self.targets) {
            let z: Vec<T> = z.iter().map(|&x| T::from_f64(x)).collect();
            let max = z.iter().fold(T::NEG_INFINITY, |m, &x| if x > m { x } else { m });
            let e: Vec<T> = z.iter().map(|&x| (x - max).exp()).collect();
            let sum: f64 = e.iter().map(|e| e.to_f64()).sum();
            let mean: f64 = z.iter().zip(&e).map(|(&x, e)| (x - max).to_f64() * e.to_f64()).sum::<f64>() / sum;
            let argmax = z.iter().position(|&x| x == max).unwrap();
            let weight: f64 = targets.iter().map(|t| t.1).sum();
            for &(id, w) in targets {
                sums[0] += w * (sum.ln() - (z[id as usize] - max).to_f64());
                sums[1] += w * (sum.ln() - mean);
                sums[2] += if id as usize == argmax { w } else { 0.0 };
                sums[3] += w;
            }
            let onehot = |i: usize| targets.iter().filter(|t| t.0 as usize == i).map(|t| t.1).sum::<f64>();
            let slope = |(i, e): (usize, &T)| T::from_f64(SCALE * (weight * e.to_f64() / sum - onehot(i))).to_f64();
            gradient.extend(e.iter().enumerate().map(slope));
        }
        (sums, gradient)
    }

    /// The sums (which began at 1) less 1, and what became of the logits.
    fn run(&self, with_gradient: bool) -> ([f64; 4], Vec<f64>) {
        let (r, v, dtype) = (self.targets.len() as u32, self.v, self.dtype);
        let flat: Vec<(u32, f64)> = self.targets.concat();
        let mut starts = vec![0];
        self.targets.iter().for_each(|targets| starts.push(starts.last().unwrap() + targets.len() as u32));
        let ids: Vec<u32> = flat.iter().map(|t| t.0).collect();
        let weights = Array::new(F32, &flat.iter().map(|t| t.1).collect::<Vec<_>>());
        let (starts, ids) = (Buffer::from_slice(&starts).unwrap(), Buffer::from_slice(&ids).unwrap());
        let mut logits = Array::new(dtype, &self.logits);
        let mut sums = Buffer::from_slice(&[1.0_f64; 4]).unwrap();
        let (mut kept, mut rows) = (Array::empty(F32, flat.len()), Array::empty(F32, 4 * r as usize));
        let scale = Array::new(F32, &[SCALE]);
        let scale = if with_gradient { scale.ptr() } else { std::ptr::null() };
        let (out, kept, rows) = ((logits.mut_ptr(), sums.as_mut_ptr()), kept.mut_ptr(), rows.mut_ptr());
        let (starts, ids, weights, stream) = (starts.as_ptr(), ids.as_ptr(), weights.ptr(), stream());
        // SAFETY: arrays of the shapes that engine.h asks for, ids below V.
        unsafe {
            launch!(
                kernels(),
                cross_entropy { r, v }(out.0, out.1, kept, rows, starts, ids, weights, scale, r, v, dtype, stream)
            )
            .unwrap();
        }
        (std::array::from_fn(|i| sums.to_vec()[i] - 1.0), logits.values())
    }
}

#[test]
fn loss_and_gradient_equal_the_formula() {
    for (r, v) in [(1, 1), (2, 257), (5, 4099), (17, 512), (113, 33), (203, 5)] {
        for dtype in [F32, BF16] {
            let case = Case::new(dtype, r, v);
            let name = format!("cross_entropy {dtype:?} of R {r}, V {v}");
            let (sums, gradient) = twice(&name, || case.run(true));
            let ((exact, slopes), (plain, plain_slopes)) = (case.formula::<f64>(), case.formula::<f32>());
            for (i, what) in ["loss", "entropy"].iter().enumerate() {
                check(&format!("{what} of {name}"), &sums[i..=i], &exact[i..=i], &plain[i..=i]);
            }
            assert_eq!(sums[2..], exact[2..], "hits and weight of {name}");
            check(&format!("gradient of {name}"), &gradient, &slopes, &rounded(dtype, &plain_slopes));
        }
    }
}

#[test]
fn without_a_scale_the_logits_stay() {
    let case = Case::new(BF16, 5, 257);
    let (sums, logits) = case.run(false);
    assert_eq!(sums, case.run(true).0);
    assert_eq!(logits, case.logits);
}

#[test]
fn masked_logits_count_for_nothing() {
    // A thread sees only masked logits, or masked ones before and after the others, or both in one vector.
    for (dtype, v, begin, end) in [(F32, 257, 0, 4), (BF16, 4099, 1500, 1505), (F32, 8192, 2050, 2055)] {
        let mut case = Case::new(dtype, 3, v);
        case.targets = vec![vec![(begin as u32 + 1, 1.0)]; 3];
        let seen = |i: usize| (begin..end).contains(&(i % v as usize));
        let masked = case.logits.iter_mut().enumerate().filter(|(i, _)| !seen(*i));
        masked.for_each(|(_, z)| *z = f64::NEG_INFINITY);
        let (sums, gradient) = case.run(true);
        let alone = |values: &[f64]| values.chunks(v as usize).flat_map(|row| row[begin..end].to_vec()).collect();
        let short =
            Case { dtype, v: (end - begin) as u32, logits: alone(&case.logits), targets: vec![vec![(1, 1.0)]; 3] };
        let ((exact, slopes), (plain, plain_slopes)) = (short.formula::<f64>(), short.formula::<f32>());
        check("loss", &sums[..1], &exact[..1], &plain[..1]);
        check("entropy", &sums[1..2], &exact[1..2], &plain[1..2]);
        let few: Vec<f64> = alone(&gradient);
        check("gradient", &few, &slopes, &rounded(dtype, &plain_slopes));
        assert!(gradient.iter().enumerate().all(|(i, &g)| seen(i) || g == 0.0));
    }
}

#[test]
fn a_row_without_targets_has_no_loss_and_no_gradient() {
    for (dtype, v) in [(F32, 257), (BF16, 512)] {
        let mut case = Case::new(dtype, 7, v);
        for row in [0, 3, 4, 6] {
            case.targets[row].clear();
        }
        let (sums, gradient) = case.run(true);
        let scored = |row: usize| !case.targets[row].is_empty();
        let rows = || case.logits.chunks(v as usize).enumerate().filter(|(row, _)| scored(*row));
        let alone = Case {
            logits: rows().flat_map(|(_, z)| z.to_vec()).collect(),
            targets: case.targets.iter().filter(|targets| !targets.is_empty()).cloned().collect(),
            ..case
        };
        let (expected, slopes) = alone.run(true);
        assert_eq!(sums, expected);
        let (with, without): (Vec<_>, Vec<_>) =
            gradient.chunks(v as usize).enumerate().partition(|(row, _)| scored(*row));
        assert_eq!(with.iter().flat_map(|(_, g)| g.to_vec()).collect::<Vec<_>>(), slopes);
        assert!(without.iter().all(|(_, g)| g.iter().all(|&g| g == 0.0)));
    }
}
