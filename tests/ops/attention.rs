//! attention: softmax(scale q k^T) v over token trees of every shape, grouped heads, windows, and decoding.

use std::rc::Rc;

use engine::autograd::Tape;
use engine::batch::mask::AttentionMask;
use engine::batch::tree::TokenTree;
use engine::device::Device;
use engine::ops::attention::attention;

use crate::cases::{Case, Output, poisoned_device, random, rng, tensor};
use crate::gradcheck::check_gradients;
use crate::properties::{check_close, check_formula, check_precision, check_repeats};
use crate::trees::{Shape, rows, sees, tree, tree_of};

/// H, K, Dh.
type Heads = (usize, usize, usize);

/// o of every row of the tree, by the definition: a loop over all pairs.
fn formula(tree: &TokenTree, (h, kv, dim): Heads, window: Option<usize>, scale: f64, x: &[Vec<f64>]) -> Vec<f64> {
    let (q, k, v) = (&x[0], &x[1], &x[2]);
    let mut o = vec![0.0; q.len()];
    for (at, o) in o.chunks_mut(dim).enumerate() {
        let (i, head) = (at / h, at % h);
        let kv_at = |j: usize| (j * kv + head * kv / h) * dim;
        let keys: Vec<usize> = (0..tree.len()).filter(|&j| sees(tree, i, j, window)).collect();
        let score = |&j: &usize| scale * (0..dim).map(|c| q[at * dim + c] * k[kv_at(j) + c]).sum::<f64>();
        let scores: Vec<f64> = keys.iter().map(score).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        for (&j, s) in keys.iter().zip(&scores) {
            (0..dim).for_each(|c| o[c] += (s - max).exp() / sum * v[kv_at(j) + c]);
        }
    }
    o
}

fn case(shape: Shape, n: usize, heads: Heads, window: Option<usize>, scale: f64) -> Case {
    let (h, kv, dim) = heads;
    let tree = tree(shape, n);
    let same = tree.clone();
    Case {
        name: format!("attention of {shape:?}, N {n}, (H, K, Dh) {heads:?}, window {window:?}, scale {scale}"),
        inputs: vec![vec![n, h, dim], vec![n, kv, dim], vec![n, kv, dim]],
        params: vec![],
        amplitude: 1.0,
        terms: n * h / kv + dim,
        run: Box::new(move |tape, x, _| {
            let mask = Rc::new(AttentionMask::new(&same, window));
            Ok(Output::Vars(vec![attention(tape, (&x[0], &x[1], &x[2]), &mask, scale)?]))
        }),
        formula: Box::new(move |x, _| vec![formula(&tree, heads, window, scale, x)]),
    }
}

/// Trees of up to several tiles (32 tokens each) and gaps (16), heads 1 of 4, 2 of 4 and 4 of 4.
fn cases() -> Vec<Case> {
    vec![
        case(Shape::Row, 1, (4, 1, 2), None, 0.5),
        case(Shape::Row, 2, (4, 2, 4), Some(2), 1.0),
        case(Shape::Comb, 5, (4, 4, 3), Some(3), 0.7),
        case(Shape::Row, 17, (4, 1, 2), Some(17), 1.0),
        case(Shape::Row, 17, (4, 1, 2), Some(1), 1.0),
        case(Shape::Comb, 17, (4, 2, 3), Some(5), 1.0),
        case(Shape::Row, 67, (4, 2, 1), Some(7), 1.3),
        case(Shape::Rows(9), 67, (4, 1, 2), None, 2.0),
        case(Shape::Comb, 67, (4, 4, 1), Some(16), 1.0),
        case(Shape::Random(1), 67, (2, 1, 3), Some(67), 1.0),
        case(Shape::Row, 113, (2, 1, 2), None, 3.0),
        case(Shape::Random(2), 113, (2, 2, 1), Some(11), 1.0),
        case(Shape::Random(3), 203, (2, 1, 1), None, 1.0),
        case(Shape::Comb, 203, (1, 1, 2), Some(40), 1.0),
        case(Shape::Rows(50), 203, (1, 1, 1), Some(500), 1.0),
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
fn scores_of_thousands_neither_overflow_nor_vanish() {
    let case = case(Shape::Random(4), 67, (4, 2, 4), Some(20), 3000.0);
    check_formula(&[case]);
    let case = self::case(Shape::Random(4), 67, (4, 2, 4), Some(20), 3000.0);
    let pass = case.backward::<f32>(&poisoned_device(), &case.values(), 0.0);
    assert!(pass.outputs.iter().chain(&pass.gradients).flatten().all(|x| x.is_finite()));
}

/// Attention of queries over slots in f64, without a tape. `x` holds q, k and v.
fn run(mask: AttentionMask, (h, kv, dim): Heads, scale: f64, x: &[Vec<f64>]) -> Vec<f64> {
    let device = Device::cpu();
    let mut tape = Tape::inference(&device);
    let q = tape.var(tensor::<f64>(&device, &[mask.num_queries(), h, dim], &x[0]));
    let k = tape.var(tensor::<f64>(&device, &[mask.num_slots(), kv, dim], &x[1]));
    let v = tape.var(tensor::<f64>(&device, &[mask.num_slots(), kv, dim], &x[2]));
    attention(&mut tape, (&q, &k, &v), &Rc::new(mask), scale).unwrap().value.to_f64()
}

fn pick(x: &[f64], width: usize, rows: &[usize]) -> Vec<f64> {
    rows.iter().flat_map(|&row| &x[row * width..][..width]).copied().collect()
}

#[test]
fn a_tree_gives_each_example_what_it_gets_alone() {
    let heads @ (h, kv, dim) = (4, 2, 3);
    for (shape, n, window) in [
        (Shape::Comb, 67, None),
        (Shape::Random(5), 113, Some(9)),
        (Shape::Random(6), 203, None),
        (Shape::Rows(30), 113, Some(40)),
    ] {
        let (rows, tree, mut rng) = (rows(shape, n), tree(shape, n), rng(7));
        let x = [n * h * dim, n * kv * dim, n * kv * dim].map(|len| random(&mut rng, len, 1.0));
        let o = run(AttentionMask::new(&tree, window), heads, 1.0, &x);
        for (row, &last) in rows.iter().zip(&tree.last_rows) {
            let own: Vec<usize> = (0..=last as usize).filter(|&j| last < tree.end[j]).collect();
            assert_eq!(own.iter().map(|&j| tree.ids[j]).collect::<Vec<u32>>(), *row);
            let alone = [pick(&x[0], h * dim, &own), pick(&x[1], kv * dim, &own), pick(&x[2], kv * dim, &own)];
            let mask = AttentionMask::new(&tree_of(std::slice::from_ref(row)), window);
            let expected = run(mask, heads, 1.0, &alone);
            // The same terms in another order: a few units in the last place.
            check_close(&format!("{shape:?} {row:?}"), &[pick(&o, h * dim, &own)], &[expected], 1e-14);
        }
    }
}

/// Prompts with generated tokens in some of their reserved slots: every prompt has its own number of them.
fn decoding(prompts: &[&[u32]], reserve: usize, made: &[usize]) -> TokenTree {
    let mut tree = TokenTree::with_reserve(prompts, reserve);
    for (example, &made) in made.iter().enumerate() {
        for index in 0..made {
            tree.fill_reserved(example, index, (prompts[example].len() + index) as u32);
        }
    }
    tree
}

#[test]
fn decoding_over_reserved_slots_equals_the_whole_sequence_computed_alone() {
    let heads @ (h, kv, dim) = (4, 1, 3);
    // Shared prefixes, equal prompts, and a prompt that is a prefix of others.
    let prompts: [&[u32]; 5] = [&[2, 5, 6, 7], &[2, 5], &[2, 5, 6, 7], &[2, 9, 9, 9, 9, 9, 9, 9], &[3]];
    let made = [3, 1, 20, 17, 2];
    let tree = decoding(&prompts, 20, &made);
    let slots = tree.end.len();
    let mut rng = rng(8);
    let mut x = [made.len() * h * dim, slots * kv * dim, slots * kv * dim].map(|len| random(&mut rng, len, 1.0));
    let mut queries: Vec<(u32, usize)> = (0..made.len()).map(|e| (tree.reserved[e] + made[e] as u32 - 1, e)).collect();
    queries.sort();
    let at: Vec<u32> = queries.iter().map(|q| q.0).collect();
    let positions: Vec<u32> = at.iter().map(|&slot| tree.slot_positions[slot as usize]).collect();
    for window in [None, Some(4), Some(11)] {
        // What lies in a free slot must not matter.
        let free: Vec<usize> = (0..slots).filter(|&j| tree.end[j] == 0).collect();
        free.iter().for_each(|&j| x[1][j * dim] = 1e3);
        let o = run(AttentionMask::of_queries(&tree, &at, &positions, window), heads, 1.0, &x);
        for (row, &(slot, example)) in queries.iter().enumerate() {
            let own: Vec<usize> = (0..=slot as usize).filter(|&j| slot < tree.end[j]).collect();
            let length = prompts[example].len() + made[example];
            assert_eq!(own.len(), length);
            let mut q = vec![0.0; length * h * dim];
            q[(length - 1) * h * dim..].copy_from_slice(&pick(&x[0], h * dim, &[row]));
            let alone = [q, pick(&x[1], kv * dim, &own), pick(&x[2], kv * dim, &own)];
            let ids: Vec<u32> = (0..length as u32).collect();
            let expected = run(AttentionMask::new(&tree_of(&[ids]), window), heads, 1.0, &alone);
            let last = expected[(length - 1) * h * dim..].to_vec();
            check_close(&format!("example {example}"), &[pick(&o, h * dim, &[row])], &[last], 1e-14);
        }
    }
}
