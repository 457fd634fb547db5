//! attention over token trees of every shape, grouped heads and windows, and decoding, against the CPU op.

use std::ffi::c_void;
use std::rc::Rc;

use engine::batch::mask::AttentionMask;
use engine::batch::tree::TokenTree;
use engine::device::bindings::{engine_attention, engine_dtype, engine_heads};
use engine::host::simd::Real;
use engine::launch;
use engine::ops::attention::attention;

use crate::array::{Array, BF16, Buffer, F32, check, kernels, random, round, rounded, stream, twice};
use crate::attention_formula::{Heads, Inputs, formula};
use crate::oracle::{Pass, pass};
use crate::trees::{Shape, tree};

/// Slots of a tile of keys, rows of a tile of queries.
const TILE: usize = 64;

/// Which keys each query sees, and the tiles that this leaves, on the device.
pub struct Mask {
    pub oracle: Rc<AttentionMask>,
    arrays: [Buffer<u32>; 4],
    /// key_starts, key_tiles, query_starts, query_tiles
    lists: [Buffer<u32>; 4],
    window: u32,
}

impl Mask {
    /// Of some queries (slot and position each) over a tree's slots; `tile` rows of queries share a list.
    pub fn new(tree: &TokenTree, slots: &[u32], positions: &[u32], window: Option<usize>, tile: usize) -> Self {
        let oracle = AttentionMask::of_queries(tree, slots, positions, window);
        let (n, s) = (slots.len(), tree.end.len());
        let sees = |rows: usize, keys: usize| {
            let mut rows = rows * tile..((rows + 1) * tile).min(n);
            rows.any(|row| (keys * TILE..((keys + 1) * TILE).min(s)).any(|j| oracle.sees(row, j)))
        };
        let [a, b, c, d] = lists(n.div_ceil(tile), s.div_ceil(TILE), &sees);
        let array = |values: &[u32]| Buffer::from_slice(values).unwrap();
        Self {
            oracle: Rc::new(oracle),
            arrays: [slots, positions, &tree.end, &tree.slot_positions].map(array),
            lists: [&a[..], &b, &c, &d].map(array),
            window: window.map_or(u32::MAX, |window| window as u32),
        }
    }

    /// Of all rows of a tree over themselves.
    fn of(tree: &TokenTree, window: Option<usize>) -> Self {
        Self::new(tree, &tree.slots, &tree.positions, window, TILE)
    }

    pub fn launch(&self, (query, kv, dim): Heads, scale: f64, dtype: engine_dtype) -> engine_attention {
        let [slots, positions, end, key_positions] = self.arrays.each_ref().map(Buffer::as_ptr);
        let [key_starts, key_tiles, query_starts, query_tiles] = self.lists.each_ref().map(Buffer::as_ptr);
        engine_attention {
            slots,
            positions,
            end,
            key_positions,
            key_starts,
            key_tiles,
            query_starts,
            query_tiles,
            window: self.window,
            n: self.oracle.num_queries() as u32,
            s: self.oracle.num_slots() as u32,
            heads: engine_heads { query: query as u32, kv: kv as u32, dim: dim as u32 },
            scale: scale as f32,
            dtype,
        }
    }
}

/// Starts and entries of the lists of key tiles by query tile, and of query tiles by key tile.
fn lists(query_tiles: usize, key_tiles: usize, wanted: &dyn Fn(usize, usize) -> bool) -> [Vec<u32>; 4] {
    let by = |own: usize, other: usize, wanted: &dyn Fn(usize, usize) -> bool| {
        let lists = (0..own).map(|t| (0..other).filter(|&o| wanted(t, o)).map(|o| o as u32).collect());
        let lists: Vec<Vec<u32>> = lists.collect();
        let starts = (0..=own).map(|t| lists[..t].iter().map(|list| list.len() as u32).sum());
        [starts.collect(), lists.concat()]
    };
    let [a, b] = by(query_tiles, key_tiles, wanted);
    let [c, d] = by(key_tiles, query_tiles, &|key, query| wanted(query, key));
    [a, b, c, d]
}

pub struct Case {
    pub name: String,
    pub mask: Mask,
    pub heads: Heads,
    /// Exact in f32.
    pub scale: f64,
    pub dtype: engine_dtype,
    pub inputs: Inputs,
}

impl Case {
    pub fn new(name: String, mask: Mask, heads: Heads, scale: f64, dtype: engine_dtype) -> Self {
        let (h, kv, dim) = heads;
        let (q, k) = (mask.oracle.num_queries() * h * dim, mask.oracle.num_slots() * kv * dim);
        let inputs = [(1, q), (2, k), (3, k), (4, q)].map(|(seed, len)| random(dtype, seed, len, 1.0));
        let name = format!("{name}, (H, K, Dh) {heads:?}, scale {scale}, {dtype:?}");
        Self { name, mask, heads, scale: f64::from(scale as f32), dtype, inputs }
    }

    pub fn oracle<T: Real>(&self) -> Pass {
        let (h, kv, dim) = self.heads;
        let [q, k, v, d_o] = self.inputs.clone();
        let (n, s) = (self.mask.oracle.num_queries(), self.mask.oracle.num_slots());
        let inputs = [(vec![n, h, dim], q), (vec![s, kv, dim], k), (vec![s, kv, dim], v)];
        pass::<T>(&inputs, &(vec![1], vec![0.0]), &d_o, 0.0, |tape, x, _| {
            attention(tape, (&x[0], &x[1], &x[2]), &self.mask.oracle, self.scale)
        })
    }

    /// o, dq, dk, dv
    fn run(&self) -> [Vec<f64>; 4] {
        let [q, k, v, d_o] = self.inputs.each_ref().map(|values| Array::new(self.dtype, values));
        let [mut o, mut dq, mut dk, mut dv] = [0, 0, 1, 1].map(|i| Array::empty(self.dtype, self.inputs[i].len()));
        let mask = self.mask.launch(self.heads, self.scale, self.dtype);
        let (n, s, rows) = (mask.n, mask.s, self.mask.oracle.num_queries() * self.heads.0);
        let mut lse = Array::empty(F32, rows);
        let mut scratch = Array::empty(F32, rows * (1 + 2 * self.heads.2));
        let (lse, scratch, stream) = (lse.mut_ptr(), scratch.mut_ptr(), stream());
        let [q, k, v, d_o] = [&q, &k, &v, &d_o].map(Array::ptr::<c_void>);
        let outputs = [&mut o, &mut dq, &mut dk, &mut dv].map(Array::mut_ptr::<c_void>);
        // SAFETY: arrays of the shapes that engine.h asks for.
        unsafe {
            let [o, dq, dk, dv] = outputs;
            launch!(kernels(), attention_forward { n, s }(o, lse, q, k, v, &mask, stream)).unwrap();
            launch!(kernels(), attention_backward { n, s }(dq, dk, dv, scratch, lse, d_o, o, q, k, v, &mask, stream))
                .unwrap();
        }
        [o, dq, dk, dv].map(|array| array.values())
    }

    fn check(&self) {
        let results = twice(&self.name, || self.run());
        let [exact, plain] = [self.oracle::<f64>(), self.oracle::<f32>()].map(|pass| [vec![pass.y], pass.dx].concat());
        let formula = formula(&self.mask.oracle, self.heads, self.scale, &self.inputs, &|x| round(self.dtype, x));
        for (i, name) in ["o", "dq", "dk", "dv"].iter().enumerate() {
            // What is plain is the CPU op, rounded. Gradients in bf16 err where the formula in bf16 does, too: o is
            // rounded before it comes back, which costs more than the rounding of a gradient.
            let further = |((&e, &p), &r): ((&f64, &f64), &f64)| if (r - e).abs() > (p - e).abs() { r } else { p };
            let plain: Vec<f64> = match self.dtype {
                BF16 if i > 0 => exact[i].iter().zip(&plain[i]).zip(&formula[i]).map(further).collect(),
                dtype => rounded(dtype, &plain[i]),
            };
            check(&format!("{name} of {}", self.name), &results[i], &exact[i], &plain);
        }
    }
}

fn case(shape: Shape, n: usize, heads: Heads, window: Option<usize>, scale: f64, dtype: engine_dtype) -> Case {
    let mask = Mask::of(&tree(shape, n), window);
    Case::new(format!("attention of {shape:?}, N {n}, window {window:?}"), mask, heads, scale, dtype)
}

/// Trees of up to four tiles; heads of a group of 1, 2, 3 and 4; head_dims that fill, half fill and do not align.
fn cases(dtype: engine_dtype) -> Vec<Case> {
    let case = |shape, n, heads, window, scale| case(shape, n, heads, window, scale, dtype);
    vec![
        case(Shape::Row, 1, (4, 1, 4), None, 0.5),
        case(Shape::Row, 2, (4, 2, 4), Some(2), 1.0),
        case(Shape::Comb, 5, (1, 1, 8), Some(3), 0.7),
        case(Shape::Row, 17, (4, 1, 16), Some(17), 0.5),
        case(Shape::Row, 17, (2, 2, 5), Some(1), 1.0),
        case(Shape::Comb, 17, (4, 1, 256), Some(5), 0.125),
        case(Shape::Row, 113, (2, 2, 32), Some(40), 0.5),
        case(Shape::Rows(9), 113, (4, 1, 16), None, 2.0),
        case(Shape::Random(1), 113, (4, 1, 256), Some(60), 0.125),
        case(Shape::Comb, 113, (3, 1, 64), Some(16), 0.3),
        case(Shape::Row, 203, (4, 1, 16), None, 1.0),
        case(Shape::Random(2), 203, (4, 2, 4), Some(11), 1.0),
        case(Shape::Random(3), 203, (4, 1, 16), None, 1.0),
        case(Shape::Rows(50), 203, (1, 1, 8), Some(500), 1.0),
        // Scores of hundreds: neither overflow nor -inf - -inf.
        case(Shape::Random(4), 70, (4, 2, 4), Some(20), 300.0),
    ]
}

#[test]
fn attention_of_f32_equals_the_cpu_op() {
    cases(F32).iter().for_each(Case::check);
}

#[test]
fn attention_of_bf16_equals_the_cpu_op() {
    cases(BF16).iter().for_each(Case::check);
}

#[test]
fn the_formula_is_the_cpu_op() {
    for case in cases(F32) {
        let exact = case.oracle::<f64>();
        let formula = formula(&case.mask.oracle, case.heads, case.scale, &case.inputs, &|x| x);
        for (a, b) in [vec![exact.y], exact.dx].concat().iter().zip(&formula) {
            let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-12, "{}: {worst:e}", case.name);
        }
    }
}

#[test]
fn tiles_that_nobody_sees_change_nothing() {
    for dtype in [F32, BF16] {
        let mut case = case(Shape::Random(5), 203, (2, 1, 8), Some(9), 1.0, dtype);
        let results = case.run();
        let tiles = 203_usize.div_ceil(TILE);
        let listed = case.mask.lists[1].to_vec().len();
        case.mask.lists = lists(tiles, tiles, &|_, _| true).each_ref().map(|list| Buffer::from_slice(list).unwrap());
        assert!(listed < case.mask.lists[1].to_vec().len());
        assert!(results == case.run());
    }
}

#[test]
fn what_attention_cannot_do_is_said() {
    let case = case(Shape::Row, 2, (4, 2, 4), None, 1.0, F32);
    let null: *mut c_void = std::ptr::null_mut();
    let refusal = |change: &dyn Fn(&mut engine_attention)| {
        let mut mask = case.mask.launch(case.heads, case.scale, case.dtype);
        change(&mut mask);
        let (n, s, f) = (mask.n, mask.s, null.cast());
        // SAFETY: refused before any pointer is looked at.
        let call = unsafe {
            launch!(
                kernels(),
                attention_backward { n, s }(null, null, null, f, f, null, null, null, null, null, &mask, null)
            )
        };
        call.unwrap_err().to_string()
    };
    assert!(refusal(&|mask| mask.heads.dim = 257).ends_with("a head_dim of 257; attention knows 1 to 256"));
    assert!(refusal(&|mask| mask.heads.query = 3).ends_with("3 query heads on 2 kv heads"));
    assert!(refusal(&|mask| mask.s = 3).ends_with("2 rows of 3 slots: a backward is over all rows"));
}
