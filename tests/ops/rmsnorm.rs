//! rmsnorm: y = x * rstd * (1 + weight), rstd = 1 / sqrt(mean(x^2) + eps).

use engine::autograd::Tape;
use engine::ops::rmsnorm::rmsnorm;

use crate::cases::{Case, Output, params, poisoned_device, tensor};
use crate::gradcheck::check_gradients;
use crate::properties::{check_formula, check_precision, check_repeats};

/// The norm of one row.
pub fn formula(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().zip(weight).map(|(x, w)| x / (mean + eps).sqrt() * (1.0 + w)).collect()
}

fn case(n: usize, d: usize, eps: f64) -> Case {
    Case {
        name: format!("rmsnorm of N {n}, D {d}, eps {eps}"),
        inputs: vec![vec![n, d]],
        params: vec![vec![d]],
        amplitude: 1.0,
        terms: n.max(d),
        run: Box::new(move |tape, x, params| Ok(Output::Vars(vec![rmsnorm(tape, &x[0], &params[0], eps)?]))),
        formula: Box::new(move |x, params| vec![x[0].chunks(d).flat_map(|x| formula(x, &params[0], eps)).collect()]),
    }
}

/// The last is more than one task of rows.
fn cases() -> Vec<Case> {
    // A large eps shows where it is left out; a row of one element needs it to have a slope at all.
    let shapes = [
        (1, 1, 0.5),
        (1, 17, 1e-6),
        (2, 16, 0.5),
        (5, 33, 1e-6),
        (17, 5, 0.1),
        (113, 19, 1e-6),
        (203, 17, 0.5),
        (113, 257, 1e-6),
    ];
    shapes.map(|(n, d, eps)| case(n, d, eps)).into()
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
fn a_row_of_zeros_stays_zero() {
    let device = poisoned_device();
    let (_table, params) = params::<f32>(&device, &[vec![17]], &[vec![0.5; 17]]);
    let mut tape = Tape::inference(&device);
    let x = tape.var(tensor::<f32>(&device, &[2, 17], &[0.0; 34]));
    let y = rmsnorm(&mut tape, &x, &params[0], 1e-6).unwrap();
    assert!(y.value.to_f64().iter().all(|&y| y == 0.0));
}
