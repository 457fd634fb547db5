//! embedding against the CPU op, with ids that repeat.

use engine::device::bindings::engine_dtype;
use engine::launch;
use engine::ops::embedding::{TokenIds, embedding};

use crate::array::{Array, BF16, Buffer, F32, check, kernels, random, rounded, stream, twice};
use crate::oracle::{Pass, pass};

const V: usize = 41;
const START: f64 = 0.25;

#[derive(Clone, Copy)]
struct Case {
    dtype: engine_dtype,
    n: u32,
    d: u32,
}

impl Case {
    fn ids(&self) -> Vec<u32> {
        // The last id of the vocabulary, then a few ids again and again.
        (0..self.n).map(|i| if i == 0 { V as u32 - 1 } else { i * i % 7 }).collect()
    }

    /// weight (V, D) and dh (N, D)
    fn inputs(&self) -> [Vec<f64>; 2] {
        let d = self.d as usize;
        [random(self.dtype, 1, V * d, 1.0), random(self.dtype, 2, self.n as usize * d, 1.0)]
    }

    fn scale(&self) -> f64 {
        f64::from((self.d as f32).sqrt())
    }

    fn oracle<T: engine::host::simd::Real>(&self) -> Pass {
        let [weight, dh] = self.inputs();
        let ids = TokenIds::from(&self.ids()[..]);
        let weight = (vec![V, self.d as usize], weight);
        pass::<T>(&[], &weight, &dh, START, |tape, _, w| embedding(tape, &ids, w, self.scale()))
    }

    /// h, of these ids, which may be `u32::MAX`
    fn forward(&self, ids: &[u32]) -> Vec<f64> {
        let Case { dtype, n, d } = *self;
        let [weight, dh] = self.inputs();
        let (mut h, weight) = (Array::empty(dtype, dh.len()), Array::new(dtype, &weight));
        let ids = Buffer::from_slice(ids).unwrap();
        let (scale, stream) = (self.scale() as f32, stream());
        let (out, weight, ids) = (h.mut_ptr(), weight.ptr(), ids.as_ptr());
        // SAFETY: arrays of the shapes that engine.h asks for, ids below V.
        unsafe {
            launch!(kernels(), embedding_forward { n, d }(out, weight, ids, n, d, scale, dtype, stream)).unwrap();
        }
        h.values()
    }

    /// dweight; `spread` tells for each distinct id how many empty runs follow its own.
    fn backward(&self, spread: impl Fn(usize) -> usize) -> Vec<f64> {
        let Case { dtype, n, d } = *self;
        let [weight, dh] = self.inputs().map(|values| Array::new(dtype, &values));
        let mut dweight = Array::new(F32, &vec![START; weight.values().len()]);
        let ids = self.ids();
        let mut rows: Vec<u32> = (0..n).collect();
        rows.sort_by_key(|&row| ids[row as usize]);
        let ends = |&i: &u32| i == n || ids[rows[i as usize] as usize] != ids[rows[i as usize - 1] as usize];
        let ends = (1..=n).filter(ends).enumerate().flat_map(|(i, end)| vec![end; 1 + spread(i)]);
        let starts: Vec<u32> = std::iter::once(0).chain(ends).collect();
        let u = starts.len() as u32 - 1;
        let [ids, rows, starts] = [ids, rows, starts].map(|x| Buffer::from_slice(&x).unwrap());
        let (scale, stream) = (self.scale() as f32, stream());
        let (ids, rows, starts) = (ids.as_ptr(), rows.as_ptr(), starts.as_ptr());
        let (out, dh) = (dweight.mut_ptr(), dh.ptr());
        // SAFETY: arrays of the shapes that engine.h asks for, ids below V.
        unsafe {
            launch!(kernels(), embedding_backward { u, d }(out, dh, ids, rows, starts, u, d, scale, dtype, stream))
                .unwrap();
        }
        dweight.values()
    }
}

#[test]
fn embedding_equals_the_cpu_op() {
    for (n, d) in [(1, 1), (2, 16), (5, 33), (17, 640), (113, 19), (203, 24)] {
        for dtype in [F32, BF16] {
            let case = Case { dtype, n, d };
            let name = format!("embedding {dtype:?} of N {n}, D {d}");
            let (h, dweight) = twice(&name, || (case.forward(&case.ids()), case.backward(|_| 0)));
            let (exact, plain) = (case.oracle::<f64>(), case.oracle::<f32>());
            check(&format!("h of {name}"), &h, &exact.y, &rounded(dtype, &plain.y));
            check(&format!("dweight of {name}"), &dweight, &exact.dweight, &plain.dweight);
        }
    }
}

#[test]
fn an_id_of_u32_max_gives_a_row_of_zeros() {
    for dtype in [F32, BF16] {
        for d in [16, 33] {
            let case = Case { dtype, n: 17, d };
            let (mut ids, whole) = (case.ids(), case.forward(&case.ids()));
            ids.iter_mut().step_by(3).for_each(|id| *id = u32::MAX);
            for ((id, row), whole) in
                ids.iter().zip(case.forward(&ids).chunks(d as usize)).zip(whole.chunks(d as usize))
            {
                assert!(if *id == u32::MAX { row.iter().all(|&x| x == 0.0) } else { row == whole }, "id {id}: {row:?}");
            }
        }
    }
}

#[test]
fn empty_runs_add_nothing() {
    let case = Case { dtype: BF16, n: 17, d: 16 };
    assert_eq!(case.backward(|i| i % 3), case.backward(|_| 0));
    // All of them at the end, as where their number is fixed.
    assert_eq!(case.backward(|i| if i == 4 { 12 } else { 0 }), case.backward(|_| 0));
}
