//! rope against the CPU op: heads of any even size, scattered positions, rows that go to slots of a cache.

use std::cell::RefCell;
use std::rc::Rc;

use engine::autograd::ParamSpec;
use engine::autograd::Params;
use engine::autograd::Tape;
use engine::device::bindings::{engine_dtype, engine_heads, engine_rope};
use engine::device::{DType, Device, Tensor};
use engine::host::simd::Real;
use engine::launch;
use engine::ops::rope::{Heads, Rotation, qkv_norm_rope};

use crate::array::{Array, BF16, Buffer, F32, check, kernels, random, rounded, stream, twice};

const POSITIONS: u32 = 60; // P
const THETA: f64 = 1e4;
const START: f64 = 0.25; // of dq_norm and dk_norm, which are added to

#[derive(Clone, Copy)]
struct Case {
    dtype: engine_dtype,
    n: u32,
    heads: Heads,
    eps: f64,
}

/// Results of one pass, in the order in which engine.h names them: q, k, v, dqkv, dq_norm, dk_norm.
type Results = [Vec<f64>; 6];
const NAMES: [&str; 6] = ["q", "k", "v", "dqkv", "dq_norm", "dk_norm"];

impl Case {
    fn name(&self) -> String {
        let Heads { query, kv, dim } = self.heads;
        format!("rope {:?} of N {}, H {query}, K {kv}, Dh {dim}", self.dtype, self.n)
    }

    /// Elements of q and dq, of k, v, dk and dv, of qkv.
    fn lengths(&self) -> [usize; 3] {
        let Heads { query, kv, dim } = self.heads;
        [query, kv, query + 2 * kv].map(|heads| self.n as usize * heads * dim)
    }

    fn positions(&self) -> Vec<u32> {
        (0..self.n).map(|i| (i * 7 + 3) % POSITIONS).collect()
    }

    /// qkv, q_norm, k_norm, dq, dk, dv
    fn inputs(&self) -> [Vec<f64>; 6] {
        let ([q, kv, qkv], dim) = (self.lengths(), self.heads.dim);
        let lengths = [qkv, dim, dim, q, kv, kv];
        std::array::from_fn(|i| random(self.dtype, i as u64, lengths[i], 1.5))
    }

    fn oracle<T: Real>(&self, dtype: DType) -> Results {
        let (device, Heads { query, kv, dim }, n) = (Device::cpu(), self.heads, self.n as usize);
        let tensor = |shape: &[usize], values: &[f64]| {
            Tensor::from_slice(&device, shape, &values.iter().map(|&x| T::from_f64(x)).collect::<Vec<T>>())
        };
        let [qkv, q_norm, k_norm, dq, dk, dv] = self.inputs();
        let spec = |name: &str| ParamSpec { name: name.into(), shape: vec![dim], decay: false };
        let params = Params::new(&[spec("q"), spec("k")], tensor(&[2 * dim], &[q_norm, k_norm].concat())).unwrap();
        let norms = (params.get("q"), params.get("k"));
        let mut gradients = params.gradients().unwrap();
        gradients.values.as_mut::<T>().unwrap().fill(T::from_f64(START));
        let rotation = Rc::new(Rotation::new(&device, &self.positions(), dim, THETA, dtype));
        let mut tape = Tape::recording(&device, &mut gradients);
        let input = tape.var(tensor(&[n, (query + 2 * kv) * dim], &qkv));
        let caught = Rc::new(RefCell::new(Vec::new()));
        let (sink, source) = (caught.clone(), input.clone());
        tape.push("catch", move |ctx| {
            *sink.borrow_mut() = ctx.take(&source).expect("a gradient").to_f64();
            Ok(())
        });
        let (q, k, v) =
            qkv_norm_rope(&mut tape, &input, (&norms.0, &norms.1), &rotation, self.heads, self.eps).unwrap();
        let values = [&q, &k, &v].map(|x| x.value.to_f64());
        let slopes = [(dq, query), (dk, kv), (dv, kv)].map(|(d, heads)| tensor(&[n, heads, dim], &d));
        tape.push("seed", move |ctx| [q, k, v].iter().zip(slopes).try_for_each(|(x, slope)| ctx.give(x, slope)));
        tape.backward().unwrap();
        let sums = gradients.values.to_f64();
        let ([q, k, v], (dq_norm, dk_norm)) = (values, sums.split_at(dim));
        [q, k, v, caught.take(), dq_norm.to_vec(), dk_norm.to_vec()]
    }

    /// With `slots`, row n of k and v lies in row slots[n] of a cache of `2 N` rows, of which the others stay NaN.
    fn run(&self, slots: Option<&[u32]>) -> Results {
        let Case { dtype, n, heads, eps } = *self;
        let [q_length, kv_length, qkv_length] = self.lengths();
        let [qkv, q_norm, k_norm, dq, dk, dv] = self.inputs().map(|values| Array::new(dtype, &values));
        let table: Vec<u32> = (0..POSITIONS).collect();
        let rotation = Rotation::new(&Device::cpu(), &table, heads.dim, THETA, DType::F32);
        let [cos, sin] = [rotation.cos, rotation.sin].map(|x| Array::new(F32, &x.to_f64()));
        let positions = Buffer::from_slice(&self.positions()).unwrap();
        let slots = slots.map(|slots| Buffer::from_slice(slots).unwrap());
        let rope = engine_rope {
            q_norm: q_norm.ptr(),
            k_norm: k_norm.ptr(),
            cos: cos.ptr(),
            sin: sin.ptr(),
            positions: positions.as_ptr(),
            slots: slots.as_ref().map_or(std::ptr::null(), |slots| slots.as_ptr()),
            n,
            eps: eps as f32,
            heads: engine_heads { query: heads.query as u32, kv: heads.kv as u32, dim: heads.dim as u32 },
        };
        let rows = if slots.is_some() { 2 } else { 1 };
        let mut outputs = [q_length, rows * kv_length, rows * kv_length, qkv_length].map(|x| Array::empty(dtype, x));
        let mut sums = [START; 2].map(|start| Array::new(F32, &vec![start; heads.dim]));
        let mut scratch = Array::empty(F32, n.div_ceil(64) as usize * 2 * heads.dim);
        let [q, k, v, dqkv] = outputs.each_mut().map(|x| x.mut_ptr());
        let [dq_norm, dk_norm] = sums.each_mut().map(|x| x.mut_ptr());
        let (qkv, dq, dk, dv) = (qkv.ptr(), dq.ptr(), dk.ptr(), dv.ptr());
        let (scratch, stream) = (scratch.mut_ptr(), stream());
        // SAFETY: arrays of the shapes that engine.h asks for, positions below P, slots below 2 N.
        unsafe {
            launch!(kernels(), rope_forward { n }(q, k, v, qkv, &rope, dtype, stream)).unwrap();
            launch!(
                kernels(),
                rope_backward { n }(dqkv, dq_norm, dk_norm, scratch, dq, dk, dv, qkv, &rope, dtype, stream)
            )
            .unwrap();
        }
        let ([q, k, v, dqkv], [dq_norm, dk_norm]) = (outputs, sums);
        [q, k, v, dqkv, dq_norm, dk_norm].map(|x| x.values())
    }
}

#[test]
fn rope_equals_the_cpu_op() {
    let heads = |query, kv, dim| Heads { query, kv, dim };
    // 16 and 256 take the 16-byte path in both types; 4 on 1 of 256 are the model's own.
    let shapes = [
        (1, heads(1, 1, 2)),
        (2, heads(4, 1, 256)),
        (5, heads(2, 2, 6)),
        (17, heads(3, 1, 16)),
        (113, heads(4, 2, 10)),
        (203, heads(2, 1, 32)),
    ];
    for (i, &(n, heads)) in shapes.iter().enumerate() {
        for dtype in [F32, BF16] {
            let case = Case { dtype, n, heads, eps: if i % 2 == 0 { 0.5 } else { 1e-6 } };
            let got = twice(&case.name(), || case.run(None));
            let (exact, plain) = (case.oracle::<f64>(DType::F64), case.oracle::<f32>(DType::F32));
            for (j, what) in NAMES.iter().enumerate() {
                let plain = if j < 4 { rounded(dtype, &plain[j]) } else { plain[j].clone() };
                check(&format!("{what} of {}", case.name()), &got[j], &exact[j], &plain);
            }
        }
    }
}

#[test]
fn with_slots_k_and_v_go_to_their_rows_of_a_cache() {
    let case = Case { dtype: BF16, n: 5, heads: Heads { query: 2, kv: 3, dim: 16 }, eps: 1e-6 };
    let slots = [1, 2, 5, 8, 9];
    let ([q, k, v, ..], [cached_q, cached_k, cached_v, ..]) = (case.run(None), case.run(Some(&slots)));
    assert_eq!(q, cached_q, "q has no slots");
    for (rows, cache) in [(&k, &cached_k), (&v, &cached_v)] {
        for (slot, cached) in cache.chunks(3 * 16).enumerate() {
            match slots.iter().position(|&s| s as usize == slot) {
                Some(row) => assert_eq!(&rows[row * 48..][..48], cached, "slot {slot}"),
                None => assert!(cached.iter().all(|x| x.is_nan()), "slot {slot} is not in `slots`"),
            }
        }
    }
}

#[test]
fn v_is_moved_as_it_is() {
    let case = Case { dtype: BF16, n: 17, heads: Heads { query: 3, kv: 2, dim: 6 }, eps: 1e-6 };
    let ([qkv, _, _, _, _, dv], [_, _, v, dqkv, ..]) = (case.inputs(), case.run(None));
    let part = |fused: &[f64]| fused.chunks(7 * 6).flat_map(|row| row[5 * 6..].to_vec()).collect::<Vec<_>>();
    assert_eq!(v, part(&qkv));
    assert_eq!(dv, part(&dqkv));
}

#[test]
fn heads_of_an_odd_size_are_an_error_and_no_rows_are_none() {
    let heads = |dim| engine_heads { query: 1, kv: 1, dim };
    let none = std::ptr::null_mut();
    let rope = |n, dim| engine_rope {
        q_norm: none,
        k_norm: none,
        cos: none.cast(),
        sin: none.cast(),
        positions: none.cast(),
        slots: none.cast(),
        n,
        eps: 1e-6,
        heads: heads(dim),
    };
    let run = |rope: &engine_rope, n: u32| {
        // SAFETY: neither case reaches a kernel.
        unsafe { launch!(kernels(), rope_forward { n }(none, none, none, none, rope, F32, none)) }
    };
    let message = run(&rope(3, 5), 3).unwrap_err().to_string();
    assert!(message.contains("heads of 5 elements"), "{message}");
    run(&rope(0, 16), 0).unwrap();
}
