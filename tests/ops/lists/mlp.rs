//! mlp: y = geglu(x gate_up^T) down^T.

use engine::ops::geglu::geglu;
use engine::ops::linear::linear;
use engine::ops::mlp::mlp;

use super::geglu::gated;
use super::{Case, Output, Run};

/// x (N, D), gate_up (2F, D), down (D, F). Sums of D terms of gates reach both bends of gelu.
pub fn case(n: usize, d: usize, f: usize) -> Case {
    Case {
        name: format!("mlp of N {n}, D {d}, F {f}"),
        inputs: vec![vec![n, d]],
        params: vec![vec![2 * f, d], vec![d, f]],
        amplitude: 1.0,
        terms: n.max(d).max(2 * f),
        run: Box::new(|tape, x, params| Ok(Output::Vars(vec![mlp(tape, &x[0], &params[0], &params[1])?]))),
        formula: Box::new(move |x, params| {
            let (x, gate_up, down) = (&x[0], &params[0], &params[1]);
            let pre = |r: usize, c: usize| (0..d).map(|k| x[r * d + k] * gate_up[c * d + k]).sum::<f64>();
            let h: Vec<f64> = (0..n * f).map(|at| gated(pre(at / f, at % f), pre(at / f, f + at % f))).collect();
            let element = |r: usize, c: usize| (0..f).map(|j| h[r * f + j] * down[c * f + j]).sum();
            vec![(0..n * d).map(|at| element(at / d, at % d)).collect()]
        }),
    }
}

pub fn model_case() -> Case {
    case(270, 640, 2048)
}

/// Many rows as the op has them, and by products and units that a device may not join.
pub fn many_rows_cases() -> [(&'static str, Case); 2] {
    let many = || case(8192, 640, 2048);
    let run: Run = Box::new(|tape, x, params| {
        let pre = linear(tape, &x[0], &params[0])?;
        let h = geglu(tape, &pre)?;
        Ok(Output::Vars(vec![linear(tape, &h, &params[1])?]))
    });
    [("mlp_8192", many()), ("mlp_8192_apart", Case { run, ..many() })]
}

/// Widths that are not multiples of 8 are three ops everywhere.
pub fn small() -> Vec<Case> {
    [(1, 1, 1), (5, 3, 7), (2, 8, 8), (17, 24, 8), (3, 12, 16), (3, 16, 12)].map(|(n, d, f)| case(n, d, f)).into()
}

/// Few rows in one, two and four tiles, with more terms than the warps have pieces, and the last piece not whole; more rows than that,
/// which end within a tile, as columns and terms do, with more terms than the buffers hold; many rows, in large tiles, of which there is one
/// across and then more.
pub fn cases() -> Vec<Case> {
    let large =
        [(16, 520, 16), (20, 40, 72), (64, 264, 24), (65, 72, 200), (130, 264, 72), (2118, 136, 24), (2048, 8, 264)];
    small().into_iter().chain(large.map(|(n, d, f)| case(n, d, f))).collect()
}
