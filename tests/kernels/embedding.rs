//! embedding against the CPU op, with ids that repeat.

use engine::backend::bindings::engine_dtype;
use engine::backend::emulated::Buffer;
use engine::launch;
use engine::ops::embedding::{TokenIds, embedding};

use crate::array::{Array, BF16, F32, check, kernels, random, rounded, twice};
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

    fn oracle<T: engine::backend::cpu::Real>(&self) -> Pass {
        let [weight, dh] = self.inputs();
        let ids = TokenIds::from(&self.ids()[..]);
        let weight = (vec![V, self.d as usize], weight);
        pass::<T>(&[], &weight, &dh, START, |tape, _, w| embedding(tape, &ids, w, self.scale()))
    }

    /// h, dweight
    fn run(&self) -> [Vec<f64>; 2] {
        let Case { dtype, n, d } = *self;
        let [weight, dh] = self.inputs();
        let (mut h, mut dweight) = (Array::empty(dtype, dh.len()), Array::new(F32, &vec![START; weight.len()]));
        let (weight, dh) = (Array::new(dtype, &weight), Array::new(dtype, &dh));
        let ids = self.ids();
        let mut rows: Vec<u32> = (0..n).collect();
        rows.sort_by_key(|&row| ids[row as usize]);
        let begins = |&i: &u32| i == 0 || ids[rows[i as usize] as usize] != ids[rows[i as usize - 1] as usize];
        let mut starts: Vec<u32> = (0..n).filter(begins).collect();
        let u = starts.len() as u32;
        starts.push(n);
        let [ids, rows, starts] = [ids, rows, starts].map(|x| Buffer::from_slice(&x).unwrap());
        let (scale, stream) = (self.scale() as f32, std::ptr::null_mut());
        let (ids, rows, starts) = (ids.as_ptr(), rows.as_ptr(), starts.as_ptr());
        // SAFETY: arrays of the shapes that engine.h asks for, ids below V.
        unsafe {
            let out = h.mut_ptr();
            launch!(kernels(), embedding_forward { n, d }(out, weight.ptr(), ids, n, d, scale, dtype, stream)).unwrap();
            let (out, dh) = (dweight.mut_ptr(), dh.ptr());
            launch!(kernels(), embedding_backward { u, d }(out, dh, ids, rows, starts, u, d, scale, dtype, stream))
                .unwrap();
        }
        [h.values(), dweight.values()]
    }
}

#[test]
fn embedding_equals_the_cpu_op() {
    for (n, d) in [(1, 1), (2, 16), (5, 33), (17, 640), (113, 19)] {
        for dtype in [F32, BF16] {
            let case = Case { dtype, n, d };
            let name = format!("embedding {dtype:?} of N {n}, D {d}");
            let [h, dweight] = twice(&name, || case.run());
            let (exact, plain) = (case.oracle::<f64>(), case.oracle::<f32>());
            check(&format!("h of {name}"), &h, &exact.y, &rounded(dtype, &plain.y));
            check(&format!("dweight of {name}"), &dweight, &exact.dweight, &plain.dweight);
        }
    }
}
