//! geglu: y = gelu(gate) * up, with gelu's tanh form.

use engine::ops::geglu::geglu;

use super::{Case, Output};

fn gelu(g: f64) -> f64 {
    let c = (2.0 / std::f64::consts::PI).sqrt();
    0.5 * g * (1.0 + (c * (g + 0.044715 * g.powi(3))).tanh())
}

pub fn gated(gate: f64, up: f64) -> f64 {
    gelu(gate) * up
}

/// x = [gate, up] (N, 2F). Gates from -6 to 6: both tails and the bend.
pub fn case(n: usize, f: usize) -> Case {
    Case {
        name: format!("geglu of N {n}, F {f}"),
        inputs: vec![vec![n, 2 * f]],
        params: vec![],
        amplitude: 6.0,
        terms: 1,
        run: Box::new(|tape, x, _| Ok(Output::Vars(vec![geglu(tape, &x[0])?]))),
        formula: Box::new(move |x, _| {
            let row = |x: &[f64]| (0..f).map(|j| gated(x[j], x[f + j])).collect::<Vec<f64>>();
            vec![x[0].chunks(2 * f).flat_map(row).collect()]
        }),
    }
}

pub fn model_case() -> Case {
    case(270, 2048)
}

/// 8, 24 and 128 take the paths of 16 bytes; the last is more than one task of rows.
pub fn cases() -> Vec<Case> {
    let shapes =
        [(1, 1), (1, 257), (2, 8), (5, 33), (17, 5), (17, 128), (113, 7), (113, 19), (203, 3), (203, 24), (113, 257)];
    shapes.map(|(n, f)| case(n, f)).into()
}
