//! cross_entropy: the head fused with the loss, its entropy and its accuracy.

use engine::autograd::Tape;
use engine::batch::tree::Target;
use engine::ops::cross_entropy::{CHUNK_BYTES, LossSums, linear_cross_entropy};
use rand::RngExt;

use crate::cases::{Case, Output, params, poisoned_device, random, rng, tensor};
use crate::gradcheck::check_gradients;
use crate::properties::{check_close, check_formula, check_precision, check_repeats};

/// About two thirds of the rows are scored, by up to three ids each, of weights up to 4.
fn targets(n: usize, v: usize) -> Vec<Target> {
    let mut rng = rng(21);
    let mut targets = Vec::new();
    for row in 0..n as u32 {
        let ids = if row == 0 { 1 } else { [0, 1, 3][rng.random_range(0..3)].min(v) };
        let first = rng.random_range(0..v);
        for i in 0..ids {
            let id = ((first + i * (v / 3).max(1)) % v) as u32;
            targets.push(Target { row, id, weight: rng.random_range(1..5) as f32 });
        }
    }
    targets
}

/// Logits of a row.
fn logits(hidden: &[f64], weight: &[f64], d: usize, row: usize) -> Vec<f64> {
    let h = &hidden[row * d..][..d];
    weight.chunks(d).map(|w| h.iter().zip(w).map(|(h, w)| h * w).sum()).collect()
}

/// The sums by definition, target by target.
fn formula(hidden: &[f64], weight: &[f64], d: usize, targets: &[Target]) -> LossSums {
    let mut sums = LossSums::default();
    for t in targets {
        let z = logits(hidden, weight, d, t.row as usize);
        let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
        let w = t.weight as f64;
        sums.loss += w * (lse - z[t.id as usize]);
        sums.entropy += w * z.iter().map(|z| (z - lse).exp() * (lse - z)).sum::<f64>();
        sums.correct += if z.iter().position(|&z| z == max) == Some(t.id as usize) { w } else { 0.0 };
        sums.scored += w;
    }
    sums
}

const DIVISOR: f64 = 7.5;

/// hidden (N, D), weight (V, D).
fn case(n: usize, v: usize, d: usize) -> Case {
    let (targets, same) = (targets(n, v), targets(n, v));
    Case {
        name: format!("cross_entropy of N {n}, V {v}, D {d}"),
        inputs: vec![vec![n, d]],
        params: vec![vec![v, d]],
        amplitude: 1.0,
        // The sum over V is kept in f32 for 64 terms at a time; dhidden sums V terms, dweight N.
        terms: v.max(n),
        run: Box::new(move |tape, x, params| {
            let sums = linear_cross_entropy(tape, &x[0], &params[0], &targets, DIVISOR)?;
            Ok(Output::Loss(sums.loss / DIVISOR))
        }),
        formula: Box::new(move |x, params| vec![vec![formula(&x[0], &params[0], d, &same).loss / DIVISOR]]),
    }
}

fn small() -> Vec<Case> {
    let shapes = [(1, 1, 1), (1, 257, 2), (2, 5, 17), (5, 17, 3), (17, 257, 5), (113, 19, 2), (203, 5, 3)];
    shapes.map(|(n, v, d)| case(n, v, d)).into()
}

fn all() -> Vec<Case> {
    small().into_iter().chain([case(5, 4099, 3), case(113, 1025, 17)]).collect()
}

#[test]
fn the_gradient_equals_central_differences() {
    check_gradients(&small());
    check_gradients(&[case(2, 4099, 1)]);
}

#[test]
fn the_values_equal_the_formula() {
    check_formula(&all());
}

#[test]
fn f32_is_as_precise_as_f32_can_be() {
    check_precision(&all());
}

#[test]
fn runs_repeat_to_the_bit_on_any_number_of_threads() {
    check_repeats(&all());
}

/// The sums of an inference tape in f32, and those of a recording one with the gradients of hidden and weight.
fn run(
    shape: (usize, usize, usize),
    x: &[Vec<f64>],
    targets: &[Target],
    divisor: f64,
) -> (LossSums, LossSums, [Vec<f64>; 2]) {
    let (n, v, d) = shape;
    let device = poisoned_device();
    let (table, weight) = params::<f32>(&device, &[vec![v, d]], &x[1..]);
    let mut tape = Tape::inference(&device);
    let hidden = tape.var(tensor::<f32>(&device, &[n, d], &x[0]));
    let value = linear_cross_entropy(&mut tape, &hidden, &weight[0], targets, divisor).unwrap();
    let mut gradients = table.gradients().unwrap();
    let mut tape = Tape::recording(&device, &mut gradients);
    let hidden = tape.var(hidden.value);
    let (caught, head) = (std::rc::Rc::new(std::cell::RefCell::new(Vec::new())), weight[0].clone());
    let (sink, x) = (caught.clone(), hidden.clone());
    tape.push("catch", move |ctx| {
        *sink.borrow_mut() = ctx.take(&x).expect("a gradient").to_f64();
        ctx.param::<f32>(&head).map(|_| ())
    });
    let recorded = linear_cross_entropy(&mut tape, &hidden, &weight[0], targets, divisor).unwrap();
    tape.backward().unwrap();
    (value, recorded, [caught.take(), gradients.values.to_f64()])
}

fn values((n, v, d): (usize, usize, usize), amplitude: f64) -> [Vec<f64>; 2] {
    let mut rng = rng(22);
    [random(&mut rng, n * d, amplitude), random(&mut rng, v * d, amplitude)]
}

#[test]
fn loss_entropy_accuracy_and_count_equal_the_formula_recording_or_not() {
    for shape @ (n, v, d) in [(1, 257, 2), (113, 7, 3), (17, 4099, 5)] {
        let (x, targets) = (values(shape, 1.0), targets(n, v));
        let expected = formula(&x[0], &x[1], d, &targets);
        let (value, recorded, _) = run(shape, &x, &targets, 3.0);
        assert_eq!(value, recorded, "{shape:?}");
        assert_eq!((value.correct, value.scored), (expected.correct, expected.scored), "{shape:?}");
        // Logits are off by D roundings, sums of exp by 64 + 16 of them.
        let tolerance = (d + 88) as f64 * f32::EPSILON as f64;
        assert!((value.loss / expected.loss - 1.0).abs() < tolerance, "{shape:?}: {value:?}, expected {expected:?}");
        assert!(
            (value.entropy / expected.entropy - 1.0).abs() < tolerance,
            "{shape:?}: {value:?}, expected {expected:?}"
        );
    }
}

#[test]
fn the_first_of_equal_logits_is_the_prediction() {
    let target = |id| [Target { row: 0, id, weight: 2.0 }];
    let x = [vec![1.0], vec![0.5, 3.0, -1.0, 3.0, 3.0]];
    let correct = |id| run((1, 5, 1), &x, &target(id), 1.0).0.correct;
    assert_eq!([correct(0), correct(1), correct(3), correct(4)], [0.0, 2.0, 0.0, 0.0]);
}

#[test]
fn no_target_at_all_is_loss_zero_and_gradient_zero() {
    let shape = (17, 257, 3);
    let (value, recorded, [dhidden, dweight]) = run(shape, &values(shape, 1.0), &[], 1.0);
    assert_eq!((value, recorded), (LossSums::default(), LossSums::default()));
    assert_eq!((dhidden.len(), dweight.len()), (17 * 3, 257 * 3));
    assert!(dhidden.iter().chain(&dweight).all(|&g| g == 0.0));
}

#[test]
fn rows_without_a_target_get_no_gradient() {
    let shape = (5, 257, 3);
    let targets = [1, 3].map(|row| Target { row, id: 200, weight: 1.0 });
    let (_, _, [dhidden, _]) = run(shape, &values(shape, 1.0), &targets, 1.0);
    let touched: Vec<bool> = dhidden.chunks(3).map(|row| row.iter().any(|&g| g != 0.0)).collect();
    assert_eq!(touched, [false, true, false, true, false]);
}

#[test]
fn logits_of_thousands_neither_overflow_nor_make_nan() {
    let shape @ (n, v, d) = (17, 257, 4);
    let (x, targets) = (values(shape, 50.0), targets(n, v));
    let expected = formula(&x[0], &x[1], d, &targets);
    let (value, _, gradients) = run(shape, &x, &targets, 1.0);
    assert!((value.loss / expected.loss - 1.0).abs() < 1e-5, "{value:?}, expected {expected:?}");
    assert!((value.entropy - expected.entropy).abs() < 1e-2 * targets.len() as f64, "{value:?}, expected {expected:?}");
    assert!(gradients.iter().flatten().all(|g| g.is_finite()));
}

#[test]
fn a_hidden_state_that_is_not_finite_makes_a_loss_that_is_not_finite() {
    let shape = (2, 257, 3);
    let target = [Target { row: 1, id: 200, weight: 1.0 }];
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut x = values(shape, 1.0);
        x[0][4] = bad;
        let (value, recorded, _) = run(shape, &x, &target, 1.0);
        assert!(!value.loss.is_finite() && !recorded.loss.is_finite(), "{bad}: {value:?}");
    }
}

#[test]
fn a_batch_of_several_chunks_equals_its_parts() {
    // In f32 the vocabulary of Gemma 3 leaves room for 384 rows in a chunk: two chunks of 195, against 3 calls of 130.
    let shape @ (n, v, d) = (390, 262_144, 1);
    assert!(n * v * size_of::<f32>() > CHUNK_BYTES, "more than one chunk");
    let x = values(shape, 1.0);
    let targets: Vec<Target> = (0..n as u32).map(|row| Target { row, id: row * 671, weight: 1.0 }).collect();
    let (value, recorded, whole) = run(shape, &x, &targets, 10.0);
    assert_eq!(value, recorded);
    let (mut sums, mut dhidden, mut dweight) = (LossSums::default(), Vec::new(), vec![0.0; v * d]);
    for part in targets.chunks(130) {
        let first = part[0].row;
        let own = [x[0][first as usize * d..][..130 * d].to_vec(), x[1].clone()];
        let part: Vec<Target> = part.iter().map(|t| Target { row: t.row - first, ..*t }).collect();
        let (_, part_sums, gradients) = run((130, v, d), &own, &part, 10.0);
        sums += part_sums;
        dhidden.extend(&gradients[0]);
        dweight.iter_mut().zip(&gradients[1]).for_each(|(sum, g)| *sum += g);
    }
    assert_eq!(value.scored, sums.scored);
    assert!((value.loss / sums.loss - 1.0).abs() < 1e-12 && (value.entropy / sums.entropy - 1.0).abs() < 1e-12);
    // Sums of 390 terms in f32 in another order.
    check_close("dhidden, dweight", &whole, &[dhidden, dweight], 390.0 * f32::EPSILON as f64);
}
