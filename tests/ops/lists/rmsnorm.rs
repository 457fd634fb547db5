//! rmsnorm: y = x * rstd * (1 + weight), rstd = 1 / sqrt(mean(x^2) + eps).

use engine::ops::rmsnorm::rmsnorm;

use super::{Case, Output};

/// The norm of one row.
pub fn formula(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().zip(weight).map(|(x, w)| x / (mean + eps).sqrt() * (1.0 + w)).collect()
}

pub fn case(n: usize, d: usize, eps: f64) -> Case {
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

/// The same where x has another use, whose gradient has arrived when the norm's backward comes.
pub fn case_of_two_uses(n: usize, d: usize, eps: f64) -> Case {
    Case {
        name: format!("rmsnorm of N {n}, D {d}, eps {eps}, and x itself"),
        run: Box::new(move |tape, x, params| {
            Ok(Output::Vars(vec![rmsnorm(tape, &x[0], &params[0], eps)?, x[0].clone()]))
        }),
        formula: Box::new(move |x, params| {
            vec![x[0].chunks(d).flat_map(|x| formula(x, &params[0], eps)).collect(), x[0].clone()]
        }),
        ..case(n, d, eps)
    }
}

/// A norm after a norm with the same weight, whose gradient has two parts then.
pub fn case_of_one_weight(n: usize, d: usize, eps: f64) -> Case {
    Case {
        name: format!("rmsnorm of N {n}, D {d}, eps {eps}, twice with one weight"),
        run: Box::new(move |tape, x, params| {
            let y = rmsnorm(tape, &x[0], &params[0], eps)?;
            Ok(Output::Vars(vec![rmsnorm(tape, &y, &params[0], eps)?]))
        }),
        formula: Box::new(move |x, params| {
            let twice = |x: &[f64]| formula(&formula(x, &params[0], eps), &params[0], eps);
            vec![x[0].chunks(d).flat_map(twice).collect()]
        }),
        ..case(n, d, eps)
    }
}

pub fn model_case() -> Case {
    case(270, 640, 1e-6)
}

/// 16, 24 and 640 take the paths of 16 bytes; the last ones are more than one task of rows, and more than one part; 4100 rows are so
/// many that parts grow.
pub fn cases() -> Vec<Case> {
    // A large eps shows where it is left out; a row of one element needs it to have a slope at all.
    let shapes = [
        (1, 1, 0.5),
        (1, 17, 1e-6),
        (2, 16, 0.5),
        (5, 33, 1e-6),
        (17, 5, 0.1),
        (17, 640, 0.5),
        (113, 19, 1e-6),
        (203, 24, 0.5),
        (113, 257, 1e-6),
        (4100, 2, 0.5),
    ];
    let twice = [(5, 33, 0.5), (17, 640, 1e-6), (203, 24, 0.1)].map(|(n, d, eps)| case_of_two_uses(n, d, eps));
    shapes.map(|(n, d, eps)| case(n, d, eps)).into_iter().chain(twice).collect()
}
