//! geglu: y = gelu(gate) * up, with gelu's tanh form.

use engine::autograd::Tape;
use engine::ops::geglu::geglu;

use crate::cases::{Case, Output, poisoned_device, tensor};
use crate::gradcheck::check_gradients;
use crate::properties::{check_formula, check_precision, check_repeats};

fn gelu(g: f64) -> f64 {
    let c = (2.0 / std::f64::consts::PI).sqrt();
    0.5 * g * (1.0 + (c * (g + 0.044715 * g.powi(3))).tanh())
}

/// x = [gate, up] (N, 2F). Gates from -4 to 4: both tails and the bend.
fn case(n: usize, f: usize) -> Case {
    Case {
        name: format!("geglu of N {n}, F {f}"),
        inputs: vec![vec![n, 2 * f]],
        params: vec![],
        amplitude: 4.0,
        terms: 1,
        run: Box::new(|tape, x, _| Ok(Output::Vars(vec![geglu(tape, &x[0])?]))),
        formula: Box::new(move |x, _| {
            let row = |x: &[f64]| (0..f).map(|j| gelu(x[j]) * x[f + j]).collect::<Vec<f64>>();
            vec![x[0].chunks(2 * f).flat_map(row).collect()]
        }),
    }
}

/// The last is more than one task of rows.
fn cases() -> Vec<Case> {
    [(1, 1), (1, 257), (2, 17), (5, 16), (17, 5), (113, 7), (203, 3), (113, 257)].map(|(n, f)| case(n, f)).into()
}

#[test]
fn the_gradient_equals_central_differences() {
    check_gradients(&cases());
}

#[test]
fn the_values_equal_the_formula() {
    check_formula(&cases());
}

#[test]
fn f32_is_as_precise_as_f32_can_be() {
    check_precision(&cases());
}

#[test]
fn runs_repeat_to_the_bit_on_any_number_of_threads() {
    check_repeats(&cases());
}

#[test]
fn gates_far_from_zero_are_passed_or_blocked_and_never_nan() {
    let gates = [-1e4, -100.0, -30.0, 30.0, 100.0, 1e4];
    let x: Vec<f64> = gates.into_iter().chain([3.0; 6]).collect();
    let device = poisoned_device();
    let mut tape = Tape::inference(&device);
    let x = tape.var(tensor::<f32>(&device, &[1, 12], &x));
    let y = geglu(&mut tape, &x).unwrap().value.to_f64();
    assert_eq!(y, [0.0, 0.0, 0.0, 90.0, 300.0, 3e4]);
}
