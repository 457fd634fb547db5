//! rope: q and k normed per head and rotated by their positions, v copied.

use std::rc::Rc;

use engine::autograd::Tape;
use engine::device::{DType, Device};
use engine::ops::rope::{Heads, Rotation, qkv_norm_rope};

use crate::cases::{Case, Output, params, tensor};
use crate::gradcheck::check_gradients;
use crate::properties::{check_close, check_formula, check_precision, check_repeats};
use crate::rmsnorm;
use crate::trees::{Shape, tree};

/// The rotation by definition: angles `position / theta^(2i / Dh)` rounded to f32, as the op's contract says.
fn rotate(u: &[f64], position: u32, theta: f64) -> Vec<f64> {
    let half = u.len() / 2;
    let angle = |i: usize| {
        let frequency = (1.0 / theta.powf(2.0 * i as f64 / u.len() as f64)) as f32;
        (position as f32 * frequency) as f64
    };
    let low = (0..half).map(|i| u[i] * angle(i).cos() - u[i + half] * angle(i).sin());
    let high = (0..half).map(|i| u[i + half] * angle(i).cos() + u[i] * angle(i).sin());
    low.chain(high).collect()
}

/// One head of every row of qkv, normed and rotated.
fn head_formula(
    qkv: &[f64],
    width: usize,
    at: usize,
    weight: &[f64],
    (positions, theta): (&[u32], f64),
) -> Vec<Vec<f64>> {
    let rows = qkv.chunks(width).zip(positions);
    rows.map(|(row, &p)| rotate(&rmsnorm::formula(&row[at..at + weight.len()], weight, EPS), p, theta)).collect()
}

const EPS: f64 = 0.01;

fn case(n: usize, (h, kv, dim): (usize, usize, usize), theta: f64) -> Case {
    let heads = Heads { query: h, kv, dim };
    let width = (h + 2 * kv) * dim;
    let positions = tree(Shape::Random(n as u64), n).positions;
    let same = positions.clone();
    Case {
        name: format!("rope of N {n}, H {h}, K {kv}, Dh {dim}, theta {theta}"),
        inputs: vec![vec![n, width]],
        params: vec![vec![dim], vec![dim]],
        amplitude: 1.0,
        terms: dim.max(n * h),
        run: Box::new(move |tape, x, params| {
            let rotation = Rc::new(Rotation::new(tape.device(), &positions, dim, theta, x[0].value.dtype()));
            let (q, k, v) = qkv_norm_rope(tape, &x[0], (&params[0], &params[1]), &rotation, heads, EPS)?;
            Ok(Output::Vars(vec![q, k, v]))
        }),
        formula: Box::new(move |x, params| {
            let stack = |first: usize, heads: usize, weight: &[f64]| {
                let head = |h| head_formula(&x[0], width, (first + h) * dim, weight, (&same, theta));
                let heads: Vec<Vec<Vec<f64>>> = (0..heads).map(head).collect();
                (0..n).flat_map(|row| heads.iter().flat_map(move |head| head[row].clone())).collect()
            };
            let v = x[0].chunks(width).flat_map(|row| row[(h + kv) * dim..].to_vec()).collect();
            vec![stack(0, h, &params[0]), stack(h, kv, &params[1]), v]
        }),
    }
}

fn cases() -> Vec<Case> {
    vec![
        case(1, (1, 1, 2), 1e4),
        case(2, (4, 1, 4), 1e6),
        case(5, (4, 2, 6), 1e4),
        case(17, (4, 4, 2), 100.0),
        case(113, (2, 1, 4), 1e4),
        case(203, (2, 1, 2), 1e4),
        // More than one task of rows.
        case(113, (4, 2, 64), 1e6),
    ]
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
fn angles_in_f32_hold_every_position_of_a_long_context() {
    let positions = [0u32, 1, 255, 257, 511, 513, 32_767];
    let rotation = Rotation::new(&Device::cpu(), &positions, 256, 1e4, DType::F32);
    let exact = |f: fn(f64) -> f64| -> Vec<f64> {
        let angle = |at: usize| positions[at / 128] as f64 / 1e4f64.powf((at % 128) as f64 / 128.0);
        (0..positions.len() * 128).map(|at| f(angle(at))).collect()
    };
    // The frequency and the product round once each: 2^-24 of the angle each, and the angle is at most the position.
    for (row, &position) in positions.iter().enumerate() {
        let part = |x: &[f64]| vec![x[row * 128..][..128].to_vec()];
        let tolerance = 2f64.powi(-23) * (1.0 + position as f64);
        check_close("cos", &part(&rotation.cos.to_f64()), &part(&exact(f64::cos)), tolerance);
        // The sines of position 0 are all 0: nothing to be relative to.
        let (sin, exact) = (part(&rotation.sin.to_f64()), part(&exact(f64::sin)));
        assert!(sin[0].iter().zip(&exact[0]).all(|(a, b)| (a - b).abs() <= tolerance), "sin of position {position}");
    }
}

#[test]
fn a_gradient_that_reaches_only_some_of_q_k_and_v_is_an_error_and_not_dropped() {
    let device = Device::cpu();
    let (table, params) = params::<f64>(&device, &[vec![2], vec![2]], &[vec![0.5; 2], vec![0.5; 2]]);
    let mut gradients = table.gradients().unwrap();
    let mut tape = Tape::recording(&device, &mut gradients);
    let qkv = tape.var(tensor::<f64>(&device, &[1, 6], &[1.0; 6]));
    let rotation = Rc::new(Rotation::new(&device, &[0], 2, 1e4, DType::F64));
    let heads = Heads { query: 1, kv: 1, dim: 2 };
    let (q, _, _) = qkv_norm_rope(&mut tape, &qkv, (&params[0], &params[1]), &rotation, heads, EPS).unwrap();
    tape.push("seed", move |ctx| ctx.give(&q, q.value.clone()));
    let error = tape.backward().unwrap_err();
    assert!(error.report().contains("a gradient reached only some of q, k and v"), "{}", error.report());
}
