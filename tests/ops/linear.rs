//! linear: y = x weight^T.

use engine::ops::linear::linear;

use crate::cases::{Case, Output};
use crate::gradcheck::check_gradients;
use crate::properties::{check_formula, check_precision, check_repeats};

/// x (N, I), weight (O, I).
fn case(n: usize, i: usize, o: usize) -> Case {
    Case {
        name: format!("linear of N {n}, I {i}, O {o}"),
        inputs: vec![vec![n, i]],
        params: vec![vec![o, i]],
        amplitude: 1.0,
        terms: n.max(i).max(o),
        run: Box::new(|tape, x, params| Ok(Output::Vars(vec![linear(tape, &x[0], &params[0])?]))),
        formula: Box::new(move |x, params| {
            let (x, w) = (&x[0], &params[0]);
            let element = |r: usize, c: usize| (0..i).map(|k| x[r * i + k] * w[c * i + k]).sum();
            vec![(0..n * o).map(|at| element(at / o, at % o)).collect()]
        }),
    }
}

fn small() -> Vec<Case> {
    let shapes = [(1, 1, 1), (1, 5, 2), (2, 1, 17), (5, 17, 2), (17, 2, 113), (17, 13, 19), (113, 5, 3), (203, 2, 5)];
    shapes.map(|(n, i, o)| case(n, i, o)).into()
}

/// With products large enough to be split over threads.
fn all() -> Vec<Case> {
    small().into_iter().chain([case(203, 113, 129), case(1, 203, 4099)]).collect()
}

#[test]
fn the_gradient_equals_central_differences() {
    check_gradients(&small());
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
