//! residual: y = h + rmsnorm(x).

use engine::ops::residual::residual_rmsnorm;

use crate::cases::{Case, Output};
use crate::gradcheck::check_gradients;
use crate::properties::{check_formula, check_precision, check_repeats};
use crate::rmsnorm::formula;

fn case(n: usize, d: usize, eps: f64) -> Case {
    Case {
        name: format!("residual of N {n}, D {d}, eps {eps}"),
        inputs: vec![vec![n, d], vec![n, d]],
        params: vec![vec![d]],
        amplitude: 1.0,
        terms: n.max(d),
        run: Box::new(move |tape, x, params| {
            Ok(Output::Vars(vec![residual_rmsnorm(tape, &x[0], &x[1], &params[0], eps)?]))
        }),
        formula: Box::new(move |x, params| {
            let normed = x[1].chunks(d).flat_map(|x| formula(x, &params[0], eps));
            vec![x[0].iter().zip(normed).map(|(h, y)| h + y).collect()]
        }),
    }
}

/// y = h + rmsnorm(h): both gradients arrive at the same value.
fn case_of_itself(n: usize, d: usize) -> Case {
    Case {
        name: format!("residual of N {n}, D {d} and itself"),
        inputs: vec![vec![n, d]],
        run: Box::new(|tape, x, params| Ok(Output::Vars(vec![residual_rmsnorm(tape, &x[0], &x[0], &params[0], 0.5)?]))),
        formula: Box::new(move |x, params| {
            let normed = x[0].chunks(d).flat_map(|x| formula(x, &params[0], 0.5));
            vec![x[0].iter().zip(normed).map(|(h, y)| h + y).collect()]
        }),
        ..case(n, d, 0.5)
    }
}

/// The last is more than one task of rows.
fn cases() -> Vec<Case> {
    let shapes = [
        (1, 1, 0.5),
        (1, 17, 1e-6),
        (2, 16, 0.5),
        (5, 33, 1e-6),
        (17, 5, 0.1),
        (113, 19, 1e-6),
        (203, 7, 0.5),
        (113, 257, 1e-6),
    ];
    shapes.map(|(n, d, eps)| case(n, d, eps)).into_iter().chain([case_of_itself(17, 5)]).collect()
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
