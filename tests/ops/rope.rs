//! rope: q and k normed per head and rotated by their positions, v copied.

use std::ptr::null_mut;

use engine::autograd::Tape;
use engine::device::bindings::{engine_heads, engine_rope};
use engine::device::driver::engine_dtype;
use engine::device::{DType, Device, Tensor};
use engine::error::Result;
use engine::launch;
use engine::ops::attention::Qkv;
use engine::ops::rope::{CacheSlots, Heads, qkv_norm_rope, qkv_norm_rope_cached};

use crate::checks;
use crate::lists::rope::{Rope, cases};
use crate::lists::{Values, gradients, params, random, rng, round, tensor};
use crate::places::places;

checks!(cases());

/// Scattered rows, each head of an even size.
fn rope(n: u32, heads: Heads) -> Rope {
    Rope { positions: (0..n).map(|i| (i * 7 + 3) % 60).collect(), heads, theta: 1e4, eps: 1e-6 }
}

/// q, k and v of qkv, on a tape that records nothing.
fn run(rope: &Rope, device: &Device, dtype: DType, values: &Values) -> Result<Qkv> {
    let (inputs, norms) = values.all.split_at(1);
    let dim = rope.heads.dim;
    let (_table, params) = params(device, &[vec![dim], vec![dim]], dtype, norms);
    let mut tape = Tape::inference(device);
    let qkv = tape.var(tensor(device, &[rope.positions.len(), rope.width()], dtype, &inputs[0]));
    let (how, _) = rope.how(&tape, &params, &[])?;
    qkv_norm_rope(&mut tape, &qkv, &how)
}

#[test]
fn angles_in_f32_hold_every_position_of_a_long_context() {
    let heads = Heads { query: 1, kv: 1, dim: 256 };
    let rope = Rope { positions: vec![0, 1, 255, 257, 511, 513, 32_767], heads, theta: 1e4, eps: 0.0 };
    // A head of ones and zeros, whose norm is sqrt(1/2), becomes sqrt(2) times the cosines and the sines.
    let row = [vec![1.0; 128], vec![0.0; 128], vec![1.0; 512]].concat();
    let values =
        Values { held: DType::F64, all: vec![row.repeat(rope.positions.len()), vec![0.0; 256], vec![0.0; 256]] };
    let q = run(&rope, &engine::host::device(), DType::F64, &values).unwrap().q.value.to_f64();
    for (q, &position) in q.chunks(256).zip(&rope.positions) {
        // The frequency and the product round once each: 2^-24 of the angle each, and the angle is at most the position.
        let tolerance = 2f64.powi(-23) * f64::from(position) + 4.0 * f64::EPSILON;
        for i in 0..128 {
            let angle = f64::from(position) / 1e4f64.powf(i as f64 / 128.0);
            for (got, expected) in [(q[i], angle.cos()), (q[i + 128], angle.sin())] {
                let error = (got / 2f64.sqrt() - expected).abs();
                assert!(error <= tolerance, "position {position}, pair {i}: off by {error:e}");
            }
        }
    }
}

#[test]
fn v_is_moved_as_it_is() {
    let heads = Heads { query: 3, kv: 2, dim: 6 };
    let part = |fused: &[f64]| fused.chunks(7 * 6).flat_map(|row| row[5 * 6..].to_vec()).collect::<Vec<_>>();
    for place in places() {
        let case = rope(17, heads).case();
        let values = case.values(place.dtype);
        let pass = case.backward(&place.device(), place.dtype, &values, 0.0);
        assert_eq!(pass.outputs[2], part(&values.all[0]), "{place:?}");
        assert_eq!(part(&pass.gradients[0]), pass.coefficients[2], "{place:?}");
    }
}

/// dqkv and the parts of both norms' gradients of 5 rows, from dk and dv in so many parts.
fn backward(device: &Device, dtype: DType, heads: Heads, keys: &[Vec<f64>; 2], split: usize) -> Vec<Vec<f64>> {
    let (n, rows, Heads { query, kv, dim }) = (5, 2, heads);
    let mut rng = rng(3);
    let mut some =
        |shape: &[usize], of: DType| tensor(device, shape, of, &random(dtype, &mut rng, shape.iter().product(), 1.0));
    let (qkv, dq) = (some(&[n, query + 2 * kv, dim], dtype), some(&[n, query, dim], dtype));
    let [q_norm, k_norm] = [(); 2].map(|()| some(&[dim], dtype));
    let [cos, sin] = [(); 2].map(|()| some(&[n, dim / 2], dtype.accumulator()));
    let of = if split > 1 { dtype.accumulator() } else { dtype };
    let [dk, dv] = keys.each_ref().map(|x| tensor(device, &[n, kv * split, dim], of, x));
    let positions = Tensor::from_slice(device, &[n], &[3u32, 0, 4, 1, 2]);
    let [mut q_sums, mut k_sums] =
        [(); 2].map(|()| Tensor::empty(device, &[n.div_ceil(rows), dim], dtype.accumulator()).unwrap());
    let mut dqkv = Tensor::empty(device, qkv.shape(), dtype).unwrap();
    let rope = engine_rope {
        q_norm: q_norm.address(),
        k_norm: k_norm.address(),
        cos: cos.address(),
        sin: sin.address(),
        positions: positions.address().cast(),
        slots: null_mut(),
        n: n as u32,
        heads: engine_heads { query: query as u32, kv: kv as u32, dim: dim as u32 },
        eps: 1e-6,
    };
    let [out, q_parts, k_parts] = [&mut dqkv, &mut q_sums, &mut k_sums].map(|x| x.address_mut().unwrap());
    let (dq, dk, dv, qkv) = (dq.address(), dk.address(), dv.address(), qkv.address());
    let (driver, split, rows) = (device.driver(), split as u32, rows as u32);
    let (stream, dtype) = (driver.stream(), engine_dtype(dtype));
    // SAFETY: tensors of the shapes that engine.h asks for.
    unsafe {
        launch!(driver, rope_backward { n }(out, q_parts, k_parts, dq, dk, dv, qkv, &rope, split, rows, dtype, stream))
            .unwrap();
    }
    [dqkv, q_sums, k_sums].iter().map(Tensor::to_f64).collect()
}

#[test]
fn parts_of_dk_and_dv_are_added_in_order_and_rounded() {
    for place in places() {
        for (query, kv, dim, split) in [(4, 1, 256, 4), (6, 2, 16, 3), (4, 2, 6, 2), (1, 1, 2, 5)] {
            let (dtype, heads) = (place.dtype, Heads { query, kv, dim });
            let mut rng = rng(4);
            // Numbers of very different size: another order of the sum is another sum.
            let parts = [(); 2].map(|()| {
                let few = random(DType::F32, &mut rng, 5 * kv * split * dim, 1.0);
                few.into_iter()
                    .enumerate()
                    .map(|(i, x)| x * 4f64.powi((i / dim % split) as i32 * 5))
                    .collect::<Vec<_>>()
            });
            let sums = parts.each_ref().map(|parts| {
                let of_head = |parts: &[f64]| -> Vec<f64> {
                    let sum = |j: usize| parts.iter().skip(j).step_by(dim).fold(0f32, |sum, &x| sum + x as f32);
                    (0..dim).map(|j| round(dtype, f64::from(sum(j)))).collect()
                };
                parts.chunks(split * dim).flat_map(of_head).collect::<Vec<_>>()
            });
            let added = place.twice("rope of parts", || backward(&place.device(), dtype, heads, &parts, split));
            let whole = backward(&place.device(), dtype, heads, &sums, 1);
            assert!(added == whole, "{place:?}, {query} heads on {kv} of {dim} in {split} parts");
        }
    }
}

#[test]
fn k_and_v_go_to_their_slots_of_a_cache() {
    let (heads, at) = (Heads { query: 2, kv: 3, dim: 16 }, [1u32, 2, 5, 8, 9]);
    for place in places() {
        let (device, dtype, rope) = (place.device(), place.dtype, rope(5, heads));
        let values = rope.clone().case().values(dtype);
        let alone = run(&rope, &device, dtype, &values).unwrap();
        let (_table, params) = params(&device, &[vec![16], vec![16]], dtype, &values.all[1..]);
        let mut tape = Tape::inference(&device);
        let qkv = tape.var(tensor(&device, &[5, rope.width()], dtype, &values.all[0]));
        let (how, slots) = rope.how(&tape, &params, &at).unwrap();
        let cache = || tensor(&device, &[10, 3, 16], dtype, &[f64::NAN; 10 * 3 * 16]);
        let (mut k, mut v) = (cache(), cache());
        let cache = CacheSlots { k: &mut k, v: &mut v, slots: &slots };
        let cached = qkv_norm_rope_cached(&mut tape, &qkv, &how, cache).unwrap();
        assert_eq!(cached.q.value.to_f64(), alone.q.value.to_f64(), "{place:?}: q has no slots");
        check_slots(&alone.k.value, &cached.k.value, &at);
        check_slots(&alone.v.value, &cached.v.value, &at);
    }
}

/// Row i lies in slot `at[i]` of the cache, and the other slots are as they were: NaN.
fn check_slots(rows: &Tensor, cache: &Tensor, at: &[u32]) {
    let (width, rows) = (rows.len() / at.len(), rows.to_f64());
    for (slot, cached) in cache.to_f64().chunks(width).enumerate() {
        match at.iter().position(|&s| s as usize == slot) {
            Some(row) => assert_eq!(&rows[row * width..][..width], cached, "slot {slot}"),
            None => assert!(cached.iter().all(|x| x.is_nan()), "slot {slot} is not in `slots`"),
        }
    }
}

#[test]
fn heads_of_an_odd_size_are_an_error_and_no_rows_are_none() {
    for place in places() {
        let odd = rope(3, Heads { query: 1, kv: 1, dim: 5 });
        let values = odd.clone().case().values(place.dtype);
        let error = run(&odd, &place.device(), place.dtype, &values).err().expect("a refusal").report();
        assert!(error.contains("rope_forward of N 3") && error.contains("heads of 5 elements"), "{error}");
        let none = rope(0, Heads { query: 1, kv: 1, dim: 16 }).case();
        let pass = none.backward(&place.device(), place.dtype, &none.values(place.dtype), 0.0);
        assert!(pass.outputs.iter().all(Vec::is_empty));
        assert!(pass.gradients[1..].iter().flatten().all(|&g| g == 0.0));
    }
}

#[test]
fn a_gradient_that_reaches_only_some_of_q_k_and_v_is_an_error_and_not_dropped() {
    let (device, rope) = (engine::host::device(), rope(1, Heads { query: 1, kv: 1, dim: 2 }));
    let (table, params) = params(&device, &[vec![2], vec![2]], DType::F64, &[vec![0.5; 2], vec![0.5; 2]]);
    let mut gradients = gradients(&table, 0.0);
    let mut tape = Tape::recording(&device, &mut gradients);
    let qkv = tape.var(tensor(&device, &[1, 6], DType::F64, &[1.0; 6]));
    let (how, _) = rope.how(&tape, &params, &[]).unwrap();
    let q = qkv_norm_rope(&mut tape, &qkv, &how).unwrap().q;
    tape.push("seed", move |ctx| ctx.give(&q, q.value.clone()));
    let error = tape.backward().unwrap_err();
    assert!(error.report().contains("a gradient reached only some of q, k and v"), "{}", error.report());
}
