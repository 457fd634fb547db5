//! decode_attention: the same as rope into a cache and attention over it, to the bit.

use std::ptr::null;
use std::rc::Rc;

use engine::autograd::Tape;
use engine::batch::inputs::Inputs;
use engine::device::bindings::{engine_attention, engine_heads, engine_rope};
use engine::device::driver::engine_dtype;
use engine::device::{DType, Tensor};
use engine::launch;
use engine::ops::attention::attention;
use engine::ops::decode::decode_attention;
use engine::ops::rope::{CacheSlots, Heads, qkv_norm_rope_cached};

use crate::arrays::array;
use crate::lists::attention::{Attention, decoded};
use crate::lists::rope::Rope;
use crate::lists::trees::decoding_tree;
use crate::lists::{params, random, rng, tensor};
use crate::places::{Place, places};

/// By one op, or by two.
#[derive(Clone, Copy, PartialEq)]
enum By {
    One,
    Two,
}

/// o, and the cache's keys and values. What nobody has written yet is NaN: free slots, and those of the tokens themselves.
fn run(case: &Attention, place: Place, by: By) -> [Vec<f64>; 3] {
    let (query, kv, dim) = case.heads;
    let (device, dtype, n) = (place.device(), place.dtype, case.slots.len());
    let rope = Rope { positions: case.positions.clone(), heads: Heads { query, kv, dim }, theta: 1e4, eps: 1e-6 };
    let mut rng = rng(6);
    let norms = [0, 1].map(|_| random(dtype, &mut rng, dim, 1.0));
    let (_table, params) = params(&device, &[vec![dim], vec![dim]], dtype, &norms);
    let mut tape = Tape::inference(&device);
    let qkv = random(dtype, &mut rng, n * rope.width(), 1.5);
    let qkv = tape.var(tensor(&device, &[n, rope.width()], dtype, &qkv));
    let (how, slots) = rope.how(&tape, &params, &case.slots).unwrap();
    let [mut k, mut v] = [0, 1].map(|_| {
        let mut values = random(dtype, &mut rng, case.tree.end.len() * kv * dim, 1.0);
        for (slot, row) in values.chunks_mut(kv * dim).enumerate() {
            if case.tree.end[slot] == 0 || case.slots.contains(&(slot as u32)) {
                row.fill(f64::NAN);
            }
        }
        tensor(&device, &[case.tree.end.len(), kv, dim], dtype, &values)
    });
    let inputs = Inputs::new(&device, false);
    let mask = Rc::new(case.mask(&inputs));
    inputs.send().unwrap();
    let mut o = None;
    // A layer leaves the mask to the next as it found it.
    for _ in 0..2 {
        let cache = CacheSlots { k: &mut k, v: &mut v, slots: &slots };
        let of_layer = match by {
            By::One => decode_attention(&mut tape, &qkv, &how, cache, &mask, case.scale),
            By::Two => {
                let qkv = qkv_norm_rope_cached(&mut tape, &qkv, &how, cache).unwrap();
                attention(&mut tape, &qkv, &mask, case.scale)
            }
        };
        o = Some(of_layer.unwrap().value);
    }
    [o.unwrap(), k, v].map(|x| x.to_f64())
}

/// NaN equals NaN.
fn bits(x: &[Vec<f64>; 3]) -> Vec<Vec<u64>> {
    x.iter().map(|x| x.iter().map(|x| x.to_bits()).collect()).collect()
}

/// Those of attention's own tests, heads of a width of which half is no whole access, and the largest group of one block.
fn cases() -> Vec<Attention> {
    let tree = || decoding_tree(40, &[7, 30, 1], &[3, 1, 20]);
    let more = [(4, 2, 40), (16, 1, 32)].map(|heads| Attention::decoding(tree(), &[3, 1, 20], heads, None));
    let all_tiles = |case: Attention| Attention { all_tiles: true, ..case };
    let rotates = |case: &Attention| case.heads.2.is_multiple_of(2);
    decoded().into_iter().filter(rotates).chain(more).chain([all_tiles(decoded().remove(3))]).collect()
}

#[test]
fn one_op_is_two_to_the_bit() {
    for place in places() {
        for case in cases() {
            let one = place.twice(&case.name, || bits(&run(&case, place, By::One)));
            let two = run(&case, place, By::Two);
            assert!(two[0].iter().all(|x| x.is_finite()), "{}", case.name);
            assert!(one == bits(&two), "{} in {:?} on {:?}", case.name, place.dtype, place.kind);
        }
    }
}

#[test]
fn the_kernel_refuses_what_it_cannot_do() {
    for place in places().into_iter().filter(|place| !place.device().driver().is_host() && place.dtype == DType::Bf16) {
        let device = place.device();
        let mut matrices: [Tensor; 4] = [(); 4].map(|()| array(&device, DType::Bf16, &[0.0; 64]));
        let refused = |heads, dtype, at: [*mut std::ffi::c_void; 4]| {
            let rope = engine_rope {
                q_norm: null(),
                k_norm: null(),
                cos: null(),
                sin: null(),
                positions: null(),
                slots: null(),
                n: 1,
                heads,
                eps: 1e-6,
            };
            let attention = engine_attention {
                slots: null(),
                positions: null(),
                end: null(),
                key_positions: null(),
                key_starts: null(),
                key_tiles: null(),
                query_starts: null(),
                query_tiles: null(),
                arrived: std::ptr::null_mut(),
                window: u32::MAX,
                n: 1,
                s: 1,
                heads,
                heads_at_once: 1,
                scale: 1.0,
                dtype: engine_dtype(dtype),
            };
            let (driver, n, [o, scratch, k, v]) = (device.driver(), 1, at);
            // SAFETY: refused before anything is read.
            let call = unsafe {
                launch!(driver, rope_attention_decode { n }(o, scratch, k, v, k, &rope, &attention, driver.stream()))
            };
            call.expect_err("a refusal").to_string()
        };
        let at = matrices.each_mut().map(|matrix| matrix.address_mut().unwrap());
        let heads = |query, kv, dim| engine_heads { query, kv, dim };
        let most = "it takes at most 16, of an even number";
        for (heads, dtype, said) in [
            (heads(2, 1, 8), DType::F32, "rope_attention_decode is for bf16".to_owned()),
            (heads(17, 1, 8), DType::Bf16, format!("groups of 17 heads of 8 elements: {most}")),
            (heads(2, 1, 7), DType::Bf16, format!("groups of 2 heads of 7 elements: {most}")),
            (heads(3, 2, 8), DType::Bf16, "3 query heads on 2 kv heads".to_owned()),
        ] {
            let error = refused(heads, dtype, at);
            assert!(error.ends_with(&said), "{error}");
        }
    }
}
