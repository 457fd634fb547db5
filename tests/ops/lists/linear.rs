//! linear: y = x weight^T.

use engine::ops::linear::linear;

use super::{Case, Output};

/// x (N, I), weight (O, I).
pub fn case(n: usize, i: usize, o: usize) -> Case {
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

/// The products of a layer, by name.
pub fn model_cases() -> [(&'static str, Case); 4] {
    let shapes = [("qkv", 640, 1536), ("o", 1024, 640), ("gate_up", 640, 4096), ("down", 2048, 640)];
    shapes.map(|(name, i, o)| (name, case(270, i, o)))
}

/// Those of a token of 20 prompts, which are padded to 24.
pub fn few_rows_cases() -> [(&'static str, Case); 3] {
    [("qkv_24", 640, 1536), ("o_24", 1024, 640), ("down_24", 2048, 640)].map(|(name, i, o)| (name, case(24, i, o)))
}

pub fn small() -> Vec<Case> {
    let shapes = [(1, 1, 1), (1, 5, 2), (2, 1, 17), (5, 17, 2), (17, 2, 113), (17, 13, 19), (113, 5, 3), (203, 2, 5)];
    shapes.map(|(n, i, o)| case(n, i, o)).into()
}

/// With products large enough to be split over threads, and beyond the blocks of 4096 of bf16 on the host; and widths that are multiples of
/// 8, with which a weight's gradient waits for others; few rows in one, two and four tiles, with more terms than the warps of a block have
/// pieces.
pub fn cases() -> Vec<Case> {
    let large = [case(203, 113, 129), case(1, 203, 4099), case(3, 4099, 2)];
    small()
        .into_iter()
        .chain(large)
        .chain([case(33, 24, 16), case(130, 136, 264), case(1, 8, 8), case(17, 520, 16), case(64, 264, 24)])
        .collect()
}
