//! residual_rmsnorm: y = h + rmsnorm(x).

use engine::ops::residual::residual_rmsnorm;

use super::rmsnorm::formula;
use super::{Case, Output};

pub fn case(n: usize, d: usize, eps: f64) -> Case {
    Case {
        name: format!("residual_rmsnorm of N {n}, D {d}, eps {eps}"),
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

pub fn model_case() -> Case {
    case(270, 640, 1e-6)
}

pub fn cases() -> Vec<Case> {
    let shapes =
        [(1, 1, 0.5), (2, 16, 1e-6), (5, 33, 0.5), (17, 640, 0.1), (113, 19, 1e-6), (203, 24, 0.5), (1, 257, 0.5)];
    shapes.map(|(n, d, eps)| case(n, d, eps)).into()
}
