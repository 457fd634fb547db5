//! attention: o = softmax(scale * q k^T + mask) v over token trees, in training and in decoding.

use std::rc::Rc;

use engine::autograd::{Tape, Var};
use engine::batch::inputs::{DeviceArray, Inputs};
use engine::batch::mask::{AttentionMask, Placement};
use engine::batch::tree::{Rows, TokenTree};
use engine::device::{DType, Tensor};
use engine::ops::attention::{KeyParts, Qkv, attention};

use super::trees::{Shape, decoding_tree, tree, tutorial_tree};
use super::{Case, Output, round, tensor};

/// H, K, Dh.
pub type Heads = (usize, usize, usize);

/// Attention of some rows over the slots of a tree.
#[derive(Clone)]
pub struct Attention {
    pub name: String,
    pub tree: TokenTree,
    /// (N), ascending
    pub slots: Vec<u32>,
    /// (N)
    pub positions: Vec<u32>,
    pub heads: Heads,
    pub window: Option<usize>,
    /// Exact in f32.
    pub scale: f64,
    /// Rows that continue prompts: nothing is recorded.
    pub decoding: bool,
    /// Lists all tiles, whether somebody sees them or not.
    pub all_tiles: bool,
}

impl Attention {
    /// All rows of a tree.
    pub fn of(tree: TokenTree, heads: Heads, window: Option<usize>, scale: f64) -> Self {
        let (slots, positions) = (tree.slots.clone(), tree.positions.clone());
        let (n, s, scale) = (slots.len(), tree.end.len(), f64::from(scale as f32));
        let name = format!("attention of N {n}, S {s}, (H, K, Dh) {heads:?}, window {window:?}, scale {scale:.3}");
        Self { name, tree, slots, positions, heads, window, scale, decoding: false, all_tiles: false }
    }

    /// The last generated token of every example as a row.
    pub fn decoding(tree: TokenTree, made: &[usize], heads: Heads, window: Option<usize>) -> Self {
        let slot = |(example, &made): (usize, &usize)| tree.reserved[example] + made as u32 - 1;
        let mut slots: Vec<u32> = made.iter().enumerate().map(slot).collect();
        slots.sort();
        let positions = slots.iter().map(|&slot| tree.slot_positions[slot as usize]).collect();
        let (n, s) = (slots.len(), tree.end.len());
        let name = format!("attention_decode of N {n}, S {s}, (H, K, Dh) {heads:?}, window {window:?}");
        let scale = f64::from(2.0 / (heads.2 as f32).sqrt());
        Self { name, tree, slots, positions, heads, window, scale, decoding: true, all_tiles: false }
    }

    /// Its mask, whose arrays are appended to `inputs`.
    pub fn mask(&self, inputs: &Rc<Inputs>) -> AttentionMask {
        // Nobody looks at the ids.
        let rows = Rows { ids: &self.slots, slots: &self.slots, positions: &self.positions };
        let placement = Placement::new(inputs, &self.tree, rows);
        let mask = AttentionMask::new(inputs, &self.tree, rows, &placement, self.window, self.decoding);
        if !self.all_tiles {
            return mask;
        }
        let tile = inputs.device().driver().attention_tile();
        let queries = self.slots.len().div_ceil(if self.decoding { 1 } else { tile });
        let keys = self.tree.end.len().div_ceil(tile);
        let ([key_starts, key_tiles], [query_starts, query_tiles]) =
            (all(inputs, queries, keys), all(inputs, keys, queries));
        AttentionMask { key_starts, key_tiles, query_starts, query_tiles, ..mask }
    }

    /// The mask's definition: whether row `row` sees the key in slot `j`.
    pub fn sees(&self, row: usize, j: usize) -> bool {
        let i = self.slots[row] as usize;
        j <= i && i < self.tree.end[j] as usize && {
            let distance = (self.positions[row] - self.tree.slot_positions[j]) as usize;
            self.window.is_none_or(|window| distance < window)
        }
    }

    pub fn case(self) -> Case {
        let ((h, kv, dim), n, s) = (self.heads, self.slots.len(), self.tree.end.len());
        let same = self.clone();
        Case {
            name: self.name.clone(),
            inputs: vec![vec![n, h, dim], vec![s, kv, dim], vec![s, kv, dim]],
            params: vec![],
            amplitude: 1.0,
            // dk and dv are sums over the queries of a group. exp makes of a score's rounding a relative error of as many
            // units as the score is large.
            terms: s.max(n * h / kv) + dim + (self.scale * dim as f64) as usize,
            run: Box::new(move |tape, x, _| {
                let inputs = Inputs::new(tape.device(), false);
                let mask = Rc::new(self.mask(&inputs));
                inputs.send()?;
                let qkv = qkv_in_parts(tape, [&x[0], &x[1], &x[2]]);
                if self.decoding {
                    // A layer leaves the mask to the next as it found it.
                    attention(tape, &qkv, &mask, self.scale)?;
                }
                Ok(Output::Vars(vec![attention(tape, &qkv, &mask, self.scale)?]))
            }),
            formula: Box::new(move |x, _| {
                let nothing = vec![0.0; x[0].len()];
                let [o, ..] = same.formula([&x[0], &x[1], &x[2], &nothing], DType::F64);
                vec![o]
            }),
        }
    }

    /// o, dq, dk and dv from q, k, v and do, by loops over all pairs. p, o, ds and the results are rounded to `dtype`: an
    /// implementation in bf16 stores them, or hands them to tensor cores. Scores and sums are kept in its accumulator, sums one term after
    /// the other.
    pub fn formula(&self, [q, k, v, d_o]: [&[f64]; 4], dtype: DType) -> [Vec<f64>; 4] {
        let (h, kv, dim) = self.heads;
        let [round, sum] = [dtype, dtype.accumulator()].map(|dtype| move |x| round(dtype, x));
        let add = |to: &mut [f64], weight: f64, x: &[f64]| {
            to.iter_mut().zip(x).for_each(|(to, x)| *to = sum(*to + weight * x));
        };
        let mut o = vec![0.0; q.len()];
        let (mut dq, mut dk, mut dv) = (o.clone(), vec![0.0; k.len()], vec![0.0; v.len()]);
        for row in 0..self.slots.len() {
            let keys: Vec<usize> = (0..self.tree.end.len()).filter(|&j| self.sees(row, j)).collect();
            for head in 0..h {
                let own = (row * h + head) * dim..(row * h + head + 1) * dim;
                let at = |j: usize| (j * kv + head * kv / h) * dim..(j * kv + head * kv / h + 1) * dim;
                let p = softmax(keys.iter().map(|&j| sum(self.scale * dot(&q[own.clone()], &k[at(j)]))).collect());
                keys.iter().zip(&p).for_each(|(&j, &p)| add(&mut o[own.clone()], round(p), &v[at(j)]));
                o[own.clone()].iter_mut().for_each(|x| *x = round(*x));
                let slope = &d_o[own.clone()];
                let delta = dot(slope, &o[own.clone()]);
                for (&j, &p) in keys.iter().zip(&p) {
                    let ds = round(p * (dot(slope, &v[at(j)]) - delta));
                    add(&mut dv[at(j)], round(p), slope);
                    add(&mut dq[own.clone()], self.scale * ds, &k[at(j)]);
                    add(&mut dk[at(j)], self.scale * ds, &q[own.clone()]);
                }
            }
        }
        [o, dq, dk, dv].map(|x| x.into_iter().map(round).collect())
    }
}

/// q, k and v whose dk and dv may come in parts, which are added up here.
fn qkv_in_parts(tape: &mut Tape, [q, k, v]: [&Var; 3]) -> Qkv {
    let parts = KeyParts::default();
    let (left, keys) = (parts.clone(), [k.clone(), v.clone()]);
    tape.push("add up parts", move |ctx| {
        let pairs = keys.iter().zip(left.take().into_iter().flatten());
        pairs.into_iter().try_for_each(|(x, parts)| ctx.give(x, summed(&parts, x)))
    });
    Qkv { q: q.clone(), k: k.clone(), v: v.clone(), parts: Some(parts) }
}

/// The gradient of `x` (S, K, Dh) from its parts (S, H, Dh).
fn summed(parts: &Tensor, x: &Var) -> Tensor {
    let (shape, values) = (x.value.shape(), parts.to_f64());
    let dim = shape[2];
    assert_eq!(parts.dtype(), x.value.dtype().accumulator());
    let of_head = |parts: &[f64]| (0..dim).map(|j| parts.iter().skip(j).step_by(dim).sum()).collect::<Vec<f64>>();
    let sums: Vec<f64> = values.chunks(parts.shape()[1] / shape[1] * dim).flat_map(of_head).collect();
    tensor(parts.device(), shape, x.value.dtype(), &sums)
}

/// Starts and entries of the lists of owners that all have all others.
fn all(inputs: &Rc<Inputs>, owners: usize, others: usize) -> [DeviceArray; 2] {
    let starts: Vec<u32> = (0..=owners).map(|owner| (owner * others) as u32).collect();
    let entries: Vec<u32> = (0..owners).flat_map(|_| 0..others as u32).collect();
    [&starts, &entries].map(|list| inputs.push(list, list.len(), 0))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn softmax(scores: Vec<f64>) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
    scores.into_iter().map(|s| (s - max).exp() / sum).collect()
}

/// Trees of up to four tiles of the kernels (seven of the host's); groups of 1, 2, 3 and 4 heads; head_dims that fill, half
/// fill and do not align.
pub fn trained() -> Vec<Attention> {
    let cases: [(Shape, usize, Heads, Option<usize>, f64); 24] = [
        (Shape::Row, 1, (4, 1, 4), None, 0.5),
        (Shape::Row, 2, (4, 2, 20), Some(2), 1.0),
        (Shape::Comb, 5, (4, 4, 3), Some(3), 0.7),
        (Shape::Comb, 5, (1, 1, 8), Some(3), 0.7),
        (Shape::Row, 17, (4, 1, 16), Some(17), 0.5),
        (Shape::Row, 17, (2, 2, 5), Some(1), 1.0),
        (Shape::Comb, 17, (4, 2, 3), Some(5), 1.0),
        (Shape::Comb, 17, (4, 1, 256), Some(5), 0.125),
        (Shape::Row, 67, (4, 2, 1), Some(7), 1.3),
        (Shape::Rows(9), 67, (4, 1, 2), None, 2.0),
        (Shape::Comb, 67, (4, 4, 1), Some(16), 1.0),
        (Shape::Random(1), 67, (2, 1, 3), Some(67), 1.0),
        (Shape::Row, 113, (2, 1, 2), None, 3.0),
        (Shape::Row, 113, (2, 2, 32), Some(40), 0.5),
        (Shape::Rows(9), 113, (4, 1, 16), None, 2.0),
        (Shape::Random(1), 113, (4, 1, 256), Some(60), 0.125),
        (Shape::Comb, 113, (3, 1, 64), Some(16), 0.3),
        (Shape::Random(2), 113, (2, 2, 1), Some(11), 1.0),
        (Shape::Row, 203, (4, 1, 16), None, 1.0),
        (Shape::Random(2), 203, (4, 2, 4), Some(11), 1.0),
        (Shape::Random(3), 203, (4, 1, 16), None, 1.0),
        (Shape::Comb, 203, (1, 1, 2), Some(40), 1.0),
        (Shape::Rows(50), 203, (1, 1, 2), Some(500), 1.0),
        // Scores of hundreds: neither overflow nor -inf - -inf.
        (Shape::Random(4), 70, (4, 2, 4), Some(20), 300.0),
    ];
    let case = |(shape, n, heads, window, scale)| {
        let case = Attention::of(tree(shape, n), heads, window, scale);
        Attention { name: format!("{} of {shape:?}", case.name), ..case }
    };
    cases.map(case).into()
}

/// So many heads that on a GPU, and on the emulated one, dq has a launch of its own in bf16 (attention_backward.cu: 1024 blocks of 32 rows),
/// though rows are few: head_dims that align and that do not; tiles that end within a block of rows, and blocks without any.
pub fn many_heads() -> Vec<Attention> {
    vec![
        Attention::of(tree(Shape::Random(7), 70), (258, 86, 8), Some(9), 1.0),
        Attention::of(tree(Shape::Rows(30), 33), (512, 128, 3), Some(20), 1.0),
    ]
}

/// Rows of one token each, over prompts with free slots behind them.
pub fn decoded() -> Vec<Attention> {
    let made: &[usize] = &[3, 1, 20, 17, 2];
    let short = || decoding_tree(2, &[2, 0, 1, 6, 1], made);
    let long = || decoding_tree(530, &[33, 60], &[5, 9]);
    vec![
        Attention::decoding(short(), made, (4, 1, 4), None),
        Attention::decoding(short(), made, (3, 3, 5), Some(4)),
        Attention::decoding(decoding_tree(40, &[7, 30, 1, 2, 9], made), made, (4, 1, 256), None),
        // On a GPU 16 splits of more than one tile; some see nothing, with a window most.
        Attention::decoding(long(), &[5, 9], (4, 1, 16), None),
        Attention::decoding(long(), &[5, 9], (4, 2, 8), Some(100)),
        // The first row's keys begin behind those of the second.
        Attention::decoding(decoding_tree(530, &[60, 33], &[9, 5]), &[9, 5], (4, 2, 8), Some(100)),
        // So many rows that nothing is split, and a group that fills more than a band.
        Attention::decoding(short(), made, (55, 55, 1), Some(11)),
        Attention::decoding(short(), made, (21, 1, 8), None),
    ]
}

/// Prompts with free slots between them.
pub fn prompts() -> Vec<Attention> {
    let tree = || decoding_tree(50, &[30, 20, 10], &[3, 1, 20]);
    [None, Some(33)].map(|window| Attention::of(tree(), (4, 1, 16), window, 0.5)).into()
}

/// The heads of FunctionGemma at the tutorial's batch, in a layer with a window.
pub fn model_case() -> Attention {
    Attention::of(tutorial_tree(), (4, 1, 256), Some(512), 1.0 / 16.0)
}
