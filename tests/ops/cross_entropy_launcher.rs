//! The launcher of cross_entropy by itself: rows of logits and their targets, at odd vocabularies and rows with several
//! targets, with one and with none.

use std::ptr::null;

use engine::batch::tree::Target;
use engine::device::driver::engine_dtype;
use engine::device::{DType, Device, Tensor};
use engine::launch;
use engine::ops::results::LossSums;

use crate::checks::{check_close, check_twice_plain};
use crate::lists::cross_entropy::row_loss;
use crate::lists::{random, rng, round, tensor};
use crate::places::{Place, places};

const SCALE: f64 = 0.125;

/// Rows of logits, and the targets of each.
#[derive(Clone)]
struct Case {
    v: u32,
    logits: Vec<f64>,
    targets: Vec<Vec<Target>>,
    smoothing: f64,
}

/// The four sums of the results, and what became of the logits.
#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    sums: [f64; 4],
    gradient: Vec<f64>,
}

fn target(row: u32, id: u32, weight: f32) -> Target {
    Target { row, id, weight }
}

impl Case {
    fn new(dtype: DType, r: u32, v: u32) -> Self {
        let mut logits = random(dtype, &mut rng(1), (r * v) as usize, 8.0);
        let mut targets = Vec::new();
        for row in 0..r {
            let first = row * 31 % v;
            targets.push(vec![target(row, first, 1.0 + (row % 3) as f32)]);
            if row % 2 == 1 && v > 2 {
                targets[row as usize].push(target(row, (first + v / 2) % v, 2.0));
            }
            // A peak on some targets, twice the same so that the first of equals must win.
            if row % 3 == 2 {
                logits[(row * v + first) as usize] = 9.0;
                logits[(row * v + (first + 1) % v) as usize] = 9.0;
            }
        }
        Self { v, logits, targets, smoothing: 0.0 }
    }

    fn rows(&self) -> impl Iterator<Item = (&[f64], &Vec<Target>)> {
        self.logits.chunks(self.v as usize).zip(&self.targets)
    }

    fn formula(&self) -> Outcome {
        let (mut sums, mut gradient) = (LossSums::default(), Vec::new());
        for (z, targets) in self.rows() {
            let (of_row, dz) = row_loss(z.to_vec(), targets, SCALE, self.smoothing);
            sums += of_row;
            gradient.extend(dz);
        }
        Outcome { sums: [sums.loss, sums.entropy, sums.correct, sums.scored], gradient }
    }

    /// The sums (which begin at 1) less 1.
    fn run(&self, device: &Device, dtype: DType, with_gradient: bool) -> Outcome {
        let (r, v) = (self.targets.len() as u32, self.v);
        let flat = self.targets.concat();
        let mut ends = vec![0];
        self.targets.iter().for_each(|targets| ends.push(ends[ends.len() - 1] + targets.len() as u32));
        let words = |words: &[u32]| Tensor::from_slice(device, &[words.len()], words);
        let (starts, ids) = (words(&ends), words(&flat.iter().map(|t| t.id).collect::<Vec<_>>()));
        let weights = Tensor::from_slice(device, &[flat.len()], &flat.iter().map(|t| t.weight).collect::<Vec<_>>());
        let mut logits = tensor(device, &[r as usize, v as usize], dtype, &self.logits);
        let (mut results, scale) =
            (tensor(device, &[6], DType::F64, &[1.0; 6]), tensor(device, &[1], DType::F64, &[SCALE]));
        let empty = |len: usize| Tensor::empty(device, &[len], dtype.accumulator()).unwrap();
        let (mut kept, mut rows) = (empty(flat.len()), empty(4 * r as usize));
        let scale = if with_gradient { scale.address().cast() } else { null() };
        let (z, out) = (logits.address_mut().unwrap(), results.address_mut().unwrap().cast());
        let (starts, ids, weights) = (starts.address().cast(), ids.address().cast(), weights.address().cast());
        let (kept, rows) = (kept.address_mut().unwrap(), rows.address_mut().unwrap());
        let (driver, dtype) = (device.driver(), engine_dtype(dtype));
        let (stream, smoothing) = (driver.stream(), self.smoothing as f32);
        // SAFETY: arrays of the shapes that engine.h asks for, ids below V.
        unsafe {
            launch!(
                driver,
                cross_entropy { r, v }(z, out, kept, rows, starts, ids, weights, scale, smoothing, r, v, dtype, stream)
            )
            .unwrap();
        }
        let results = results.to_f64();
        assert_eq!(results[4..], [1.0; 2], "the norm and the factor are others'");
        Outcome { sums: std::array::from_fn(|i| results[i] - 1.0), gradient: logits.to_f64() }
    }

    /// Against the formula in f64, at most twice as far as the host in f32; twice the same bits.
    fn check(&self, name: &str, place: Place) -> Outcome {
        let name = format!("{name} in {:?} on {:?}", place.dtype, place.kind);
        let got = place.twice(&name, || self.run(&place.device(), place.dtype, true));
        let (exact, plain) = (self.formula(), self.run(&engine::host::device(), DType::F32, true));
        for (i, what) in ["loss", "entropy"].iter().enumerate() {
            let [got, exact, plain] = [&got, &exact, &plain].map(|outcome| &outcome.sums[i..=i]);
            check_twice_plain(&format!("{what} of {name}"), got, exact, plain, 1.0);
        }
        assert_eq!(got.sums[2..], exact.sums[2..], "hits and weight of {name}");
        let plain: Vec<f64> = plain.gradient.iter().map(|&g| round(place.dtype, g)).collect();
        check_twice_plain(&format!("gradient of {name}"), &got.gradient, &exact.gradient, &plain, 0.0);
        got
    }
}

const SHAPES: [(u32, u32); 6] = [(1, 1), (2, 257), (5, 4099), (17, 512), (113, 33), (203, 5)];

#[test]
fn f64_on_the_host_is_the_formula() {
    for (r, v) in SHAPES {
        let case = Case::new(DType::F64, r, v);
        let (got, expected) = (case.run(&engine::host::device(), DType::F64, true), case.formula());
        let name = format!("R {r}, V {v}");
        check_close(&name, &[got.sums.into(), got.gradient], &[expected.sums.into(), expected.gradient], 1e-13);
    }
}

#[test]
fn loss_and_gradient_are_as_precise_as_plain_rounding() {
    for place in places() {
        for (r, v) in SHAPES {
            Case::new(place.dtype, r, v).check(&format!("R {r}, V {v}"), place);
        }
    }
}

/// 262,144 logits of either type are more than a block keeps on any chip, and 140,001 where rows are not aligned.
#[test]
fn rows_that_a_block_cannot_keep_are_as_precise() {
    for place in places() {
        for (r, v) in [(1, 262_144), (1, 140_001)] {
            Case::new(place.dtype, r, v).check(&format!("R {r}, V {v}"), place);
        }
    }
}

// kernels/emulator/queued.cpp
#[cfg(engine_emulated)]
unsafe extern "C" {
    fn engine_emulator_shared_bytes(bytes: usize);
}

/// With so much a block keeps a step or two of a row beside what it holds in registers; ten of rows that are not aligned.
#[cfg(engine_emulated)]
const LITTLE_SHARED: usize = 11 << 10;

/// Without the gradient a block keeps nothing. With it registers hold all whole steps of a short row, or 18 of a long one; of what is left
/// shared memory holds nothing, a few steps, or on the largest chip all.
#[cfg(engine_emulated)]
#[test]
fn what_a_block_keeps_of_its_row_changes_no_bit() {
    let device = engine::emulated::device().unwrap();
    for dtype in [DType::F32, DType::Bf16] {
        for v in [8_232, 90_008, 40_001] {
            let case = Case::new(dtype, 2, v);
            let [none, others @ ..] = [0, LITTLE_SHARED, 40 << 10, 227 << 10].map(|bytes| {
                // SAFETY: a number of this thread, whose launches the device runs.
                unsafe { engine_emulator_shared_bytes(bytes) };
                case.run(&device, dtype, true)
            });
            assert!(others.iter().all(|other| *other == none), "V {v} in {dtype:?}");
            assert_eq!(none.sums, case.run(&device, dtype, false).sums, "V {v} in {dtype:?}");
        }
    }
}

/// Equals that one thread sees: a step of a block is 4096 logits or a part of that. The first of them is in registers, in shared
/// memory, or is not kept.
#[cfg(engine_emulated)]
#[test]
fn the_first_of_equals_wins_wherever_it_is_kept() {
    let device = engine::emulated::device().unwrap();
    // SAFETY: a number of this thread, whose launches the device runs.
    unsafe { engine_emulator_shared_bytes(LITTLE_SHARED) };
    for dtype in [DType::F32, DType::Bf16] {
        for v in [90_008, 90_001] {
            let mut case = Case::new(dtype, 5, v);
            let firsts = [5, 2 * 4096 + 1500, 9 * 4096 + 1111, 18 * 4096 + 1111, 19 * 4096 + 1111];
            for (row, first) in (0..).zip(firsts) {
                (first..v).step_by(4096).for_each(|id| case.logits[(row * v + id) as usize] = 10.0);
                case.targets[row as usize] = vec![target(row, first, 1.0), target(row, first + 4096, 2.0)];
            }
            let [_, _, correct, scored] = case.run(&device, dtype, true).sums;
            assert_eq!([correct, scored], [5.0, 15.0], "V {v} in {dtype:?}");
        }
    }
}

#[test]
fn smoothed_targets_are_as_precise_as_plain_rounding() {
    for place in places() {
        // Parts of 2 are exact in f32.
        for ((r, v), smoothing) in SHAPES.into_iter().zip([0.5, 0.125, 0.75, 0.25, 0.0625, 0.5]) {
            let case = Case { smoothing, ..Case::new(place.dtype, r, v) };
            case.check(&format!("R {r}, V {v}, smoothed by {smoothing}"), place);
        }
    }
}

#[test]
fn without_a_scale_the_logits_stay() {
    for place in places() {
        let case = Case::new(place.dtype, 5, 257);
        let Outcome { sums, gradient: logits } = case.run(&place.device(), place.dtype, false);
        assert_eq!(sums, case.run(&place.device(), place.dtype, true).sums, "{place:?}");
        assert_eq!(logits, case.logits, "{place:?}");
    }
}

#[test]
fn masked_logits_count_for_nothing() {
    for place in places() {
        // A thread sees only masked logits, or masked ones before and after the others, or both in one vector.
        for (v, begin, end) in [(257, 0, 4), (4099, 1500, 1505), (8192, 2050, 2055)] {
            let mut case = Case::new(place.dtype, 3, v);
            case.targets = (0..3).map(|row| vec![target(row, begin as u32 + 1, 1.0)]).collect();
            let seen = |i: usize| (begin..end).contains(&(i % v as usize));
            let masked = case.logits.iter_mut().enumerate().filter(|(i, _)| !seen(*i));
            masked.for_each(|(_, z)| *z = f64::NEG_INFINITY);
            let gradient = case.check(&format!("V {v} of which {begin} to {end} are not masked"), place).gradient;
            assert!(gradient.iter().enumerate().all(|(i, &g)| seen(i) || g == 0.0), "{place:?}, V {v}");
        }
    }
}

#[test]
fn a_row_without_targets_has_no_loss_and_no_gradient() {
    for place in places() {
        for v in [257, 512] {
            let mut case = Case::new(place.dtype, 7, v);
            [0, 3, 4, 6].iter().for_each(|&row: &usize| case.targets[row].clear());
            let Outcome { sums, gradient } = case.run(&place.device(), place.dtype, true);
            let scored = || case.rows().filter(|(_, targets)| !targets.is_empty());
            let logits = scored().flat_map(|(z, _)| z.to_vec()).collect();
            let alone =
                Case { v, logits, targets: scored().map(|(_, targets)| targets.clone()).collect(), smoothing: 0.0 };
            let alone = alone.run(&place.device(), place.dtype, true);
            assert_eq!(sums, alone.sums, "{place:?}");
            let mut others = alone.gradient.chunks(v as usize);
            for (row, gradient) in gradient.chunks(v as usize).enumerate() {
                match case.targets[row].is_empty() {
                    true => assert!(gradient.iter().all(|&g| g == 0.0), "{place:?}, row {row}"),
                    false => assert_eq!(gradient, others.next().unwrap(), "{place:?}, row {row}"),
                }
            }
        }
    }
}
