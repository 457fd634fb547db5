//! residual_rmsnorm: sum = h + rmsnorm(x), and the next norm of that.

use engine::ops::residual::{NormPair, residual_rmsnorm};

use super::rmsnorm::formula;
use super::{Case, Output};

/// What of the op's two outputs is used: the gradient of the other never arrives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Used {
    Both,
    Sum,
    Normed,
}

pub fn case(n: usize, d: usize, eps: f64, used: Used) -> Case {
    let of = move |both: [Vec<f64>; 2]| match used {
        Used::Both => both.into(),
        Used::Sum => vec![both.into_iter().next().expect("two")],
        Used::Normed => vec![both.into_iter().last().expect("two")],
    };
    Case {
        name: format!("residual_rmsnorm of N {n}, D {d}, eps {eps}, used: {used:?}"),
        inputs: vec![vec![n, d], vec![n, d]],
        // The weight of a norm that nothing comes back from has no gradient.
        params: vec![vec![d]; if used == Used::Sum { 1 } else { 2 }],
        amplitude: 1.0,
        terms: n.max(d),
        run: Box::new(move |tape, x, params| {
            let next_weight = params.last().expect("a weight").clone();
            let norms = NormPair { weight: params[0].clone(), next_weight, eps };
            let (sum, y) = residual_rmsnorm(tape, &x[0], &x[1], &norms)?;
            Ok(Output::Vars(match used {
                Used::Both => vec![sum, y],
                Used::Sum => vec![sum],
                Used::Normed => vec![y],
            }))
        }),
        formula: Box::new(move |x, params| {
            let normed = x[1].chunks(d).flat_map(|x| formula(x, &params[0], eps));
            let sum: Vec<f64> = x[0].iter().zip(normed).map(|(h, y)| h + y).collect();
            let y = sum.chunks(d).flat_map(|x| formula(x, params.last().expect("a weight"), eps)).collect();
            of([sum, y])
        }),
    }
}

pub fn model_case() -> Case {
    case(270, 640, 1e-6, Used::Both)
}

/// 16, 24 and 640 take the paths of 16 bytes; 203 rows are more than one block's, and more than one part.
pub fn cases() -> Vec<Case> {
    let shapes = [
        (1, 1, 0.5, Used::Both),
        (2, 16, 1e-6, Used::Both),
        (5, 33, 0.5, Used::Normed),
        (17, 640, 0.1, Used::Both),
        (113, 19, 1e-6, Used::Sum),
        (203, 24, 0.5, Used::Both),
        (1, 257, 0.5, Used::Normed),
    ];
    shapes.map(|(n, d, eps, used)| case(n, d, eps, used)).into()
}
