//! attention while text is generated: prompts into a cache with free slots, then rows of one token each, whose keys are
//! split over blocks.

use engine::batch::tree::TokenTree;
use engine::device::bindings::engine_dtype;
use engine::launch;

use crate::array::{Array, BF16, F32, check, kernels, rounded, stream, twice};
use crate::attention::{Case, Mask};
use crate::attention_formula::Heads;

/// Prompts that share `shared` tokens and go on alone for `own` of them each, with `made[example]` generated tokens in
/// the 20 slots reserved.
fn tree(shared: u32, own: &[u32], made: &[usize]) -> TokenTree {
    let prompt = |(example, &own): (usize, &u32)| -> Vec<u32> {
        (0..shared).chain((0..own).map(|t| 1000 * (1 + example as u32) + t)).collect()
    };
    let prompts: Vec<Vec<u32>> = own.iter().enumerate().map(prompt).collect();
    let mut tree = TokenTree::with_reserve(&prompts.iter().map(|p| &p[..]).collect::<Vec<_>>(), 20);
    for (example, &made) in made.iter().enumerate() {
        for index in 0..made {
            tree.fill_reserved(example, index, (prompts[example].len() + index) as u32);
        }
    }
    tree
}

/// The last generated token of every example as a row; a tile of queries is one row.
fn last_tokens(tree: &TokenTree, made: &[usize], window: Option<usize>) -> Mask {
    let slot = |(example, &made): (usize, &usize)| tree.reserved[example] + made as u32 - 1;
    let mut slots: Vec<u32> = made.iter().enumerate().map(slot).collect();
    slots.sort();
    let positions: Vec<u32> = slots.iter().map(|&slot| tree.slot_positions[slot as usize]).collect();
    Mask::new(tree, &slots, &positions, window, 1)
}

/// o with NaN in the rows of k and v that `hidden` names, in both arrays.
fn run(case: &Case, decode: bool, hidden: impl Fn(usize) -> bool) -> Vec<f64> {
    let Case { dtype, heads: (h, kv, dim), .. } = *case;
    let mut inputs = case.inputs.clone();
    for x in &mut inputs[1..3] {
        x.chunks_mut(kv * dim).enumerate().filter(|(slot, _)| hidden(*slot)).for_each(|(_, row)| row.fill(f64::NAN));
    }
    let [q, k, v, _] = inputs.map(|values| Array::new(dtype, &values));
    let mask = case.mask.launch(case.heads, case.scale, dtype);
    let (n, s, rows) = (mask.n, mask.s, case.mask.oracle.num_queries() * h);
    let mut o = Array::empty(dtype, rows * dim);
    let mut floats = Array::empty(F32, if decode { rows * 16 * (2 + dim) } else { rows });
    let (out, floats, stream) = (o.mut_ptr(), floats.mut_ptr(), stream());
    let (q, k, v) = (q.ptr(), k.ptr(), v.ptr());
    // SAFETY: arrays of the shapes that engine.h asks for.
    unsafe {
        if decode {
            launch!(kernels(), attention_decode { n, s }(out, floats, q, k, v, &mask, stream)).unwrap();
        } else {
            launch!(kernels(), attention_forward { n, s }(out, floats, q, k, v, &mask, stream)).unwrap();
        }
    }
    o.values()
}

fn check_output(case: &Case, o: &[f64]) {
    let (exact, plain) = (case.oracle::<f64>(), case.oracle::<f32>());
    check(&case.name, o, &exact.y, &rounded(case.dtype, &plain.y));
}

fn check_decode(tree: &TokenTree, made: &[usize], heads: Heads, window: Option<usize>, dtype: engine_dtype) {
    let (n, s) = (made.len(), tree.end.len());
    let name = format!("attention_decode of N {n}, S {s}, window {window:?}");
    let scale = 2.0 / (heads.2 as f64).sqrt();
    let case = Case::new(name, last_tokens(tree, made, window), heads, scale, dtype);
    // NaN where nothing is, and in the products' steps of 16 slots of which no row sees one: they are left out.
    let seen = |step: usize| {
        let mut slots = step * 16..(step * 16 + 16).min(s);
        slots.any(|j| (0..n).any(|row| case.mask.oracle.sees(row, j)))
    };
    let seen: Vec<bool> = (0..s.div_ceil(16)).map(seen).collect();
    let hidden = |slot: usize| tree.end[slot] == 0 || !seen[slot / 16];
    check_output(&case, &twice(&case.name, || run(&case, true, hidden)));
}

#[test]
fn decoding_equals_the_cpu_op() {
    let made = [3, 1, 20, 17, 2];
    for dtype in [F32, BF16] {
        let short = tree(2, &[2, 0, 1, 6, 1], &made);
        check_decode(&short, &made, (4, 1, 4), None, dtype);
        check_decode(&short, &made, (3, 3, 5), Some(4), dtype);
        check_decode(&tree(40, &[7, 30, 1, 2, 9], &made), &made, (4, 1, 256), None, dtype);
        // 16 splits of more than one tile; some see nothing, with a window most.
        let long = tree(530, &[33, 60], &[5, 9]);
        check_decode(&long, &[5, 9], (4, 1, 16), None, dtype);
        check_decode(&long, &[5, 9], (4, 2, 8), Some(100), dtype);
        // So many rows that nothing is split, and a group that fills more than a band.
        check_decode(&short, &made, (55, 55, 1), Some(11), dtype);
        check_decode(&short, &made, (21, 1, 8), None, dtype);
    }
}

#[test]
fn prompts_are_read_past_free_slots() {
    let made = [3, 1, 20];
    let tree = tree(50, &[30, 20, 10], &made);
    for dtype in [F32, BF16] {
        for window in [None, Some(33)] {
            let mask = Mask::new(&tree, &tree.slots, &tree.positions, window, 64);
            let name = format!("attention of prompts, window {window:?}");
            let case = Case::new(name, mask, (4, 1, 16), 0.5, dtype);
            check_output(&case, &twice(&case.name, || run(&case, false, |slot| tree.end[slot] == 0)));
        }
    }
}
