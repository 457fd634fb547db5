//! rmsnorm, alone and with the residual add, against the CPU ops.

use engine::device::bindings::engine_dtype;
use engine::launch;
use engine::ops::{residual::residual_rmsnorm, rmsnorm::rmsnorm};

use crate::array::{Array, BF16, F32, check, kernels, random, rounded, stream, twice};
use crate::oracle::{Pass, pass};

const START: f64 = 0.25; // of dweight, which is added to

/// What has arrived at x from elsewhere when the backward comes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Arrived {
    Nothing,
    Elsewhere,
    /// In dx itself.
    InPlace,
}

struct Case {
    dtype: engine_dtype,
    n: u32,
    d: u32,
    eps: f64,
    residual: bool,
    arrived: Arrived,
}

impl Case {
    /// h, x, weight, dy, dh
    fn inputs(&self) -> [Vec<f64>; 5] {
        let (rows, d) = ((self.n * self.d) as usize, self.d as usize);
        [(1, rows), (2, rows), (3, d), (4, rows), (5, rows)].map(|(seed, len)| random(self.dtype, seed, len, 1.5))
    }

    fn oracle<T: engine::host::simd::Real>(&self) -> Pass {
        let [h, x, weight, dy, dh] = self.inputs();
        let shape = vec![self.n as usize, self.d as usize];
        let weight = (vec![self.d as usize], weight);
        let (h, x) = ((shape.clone(), h), (shape, x));
        let mut pass = if self.residual {
            pass::<T>(&[x, h], &weight, &dy, START, |tape, v, w| residual_rmsnorm(tape, &v[1], &v[0], w, self.eps))
        } else {
            pass::<T>(&[x], &weight, &dy, START, |tape, v, w| rmsnorm(tape, &v[0], w, self.eps))
        };
        if self.arrived != Arrived::Nothing {
            pass.dx[0].iter_mut().zip(&dh).for_each(|(dx, &dh)| *dx = T::from_f64(*dx + dh).to_f64());
        }
        pass
    }

    /// y, dx, dweight
    fn run(&self) -> [Vec<f64>; 3] {
        let Case { dtype, n, d, .. } = *self;
        let rows = (n * d) as usize;
        let [h, x, weight, dy, dh] = self.inputs().map(|values| Array::new(dtype, &values));
        let (mut y, mut rstd) = (Array::empty(dtype, rows), Array::empty(F32, n as usize));
        let h = if self.residual { h.ptr() } else { std::ptr::null() };
        let (elsewhere, mut dx) = match self.arrived {
            Arrived::InPlace => (None, dh),
            Arrived::Elsewhere => (Some(dh), Array::empty(dtype, rows)),
            Arrived::Nothing => (None, Array::empty(dtype, rows)),
        };
        let dh = match self.arrived {
            Arrived::InPlace => dx.ptr(),
            _ => elsewhere.as_ref().map_or(std::ptr::null(), |dh| dh.ptr()),
        };
        let mut scratch = Array::empty(F32, (n.div_ceil(64) * d) as usize);
        let mut dweight = Array::new(F32, &vec![START; d as usize]);
        let (eps, stream) = (self.eps as f32, stream());
        let (x, weight, dy) = (x.ptr(), weight.ptr(), dy.ptr());
        // SAFETY: arrays of the shapes that engine.h asks for.
        unsafe {
            let (y, rstd) = (y.mut_ptr(), rstd.mut_ptr());
            launch!(kernels(), rmsnorm_forward { n, d }(y, rstd, h, x, weight, n, d, eps, dtype, stream)).unwrap();
            let (dx, dweight, scratch) = (dx.mut_ptr(), dweight.mut_ptr(), scratch.mut_ptr());
            let sums = (dweight, scratch);
            launch!(
                kernels(),
                rmsnorm_backward { n, d }(dx, sums.0, sums.1, rstd, dh, dy, x, weight, n, d, dtype, stream)
            )
            .unwrap();
        }
        [y.values(), dx.values(), dweight.values()]
    }
}

#[test]
fn rmsnorm_equals_the_cpu_op() {
    // 16 and 640 take the 16-byte path; 640 is the model's own.
    let shapes = [(1, 1), (2, 16), (5, 33), (17, 640), (113, 19), (203, 24)];
    for (i, &(n, d)) in shapes.iter().enumerate() {
        for dtype in [F32, BF16] {
            let arrived = [Arrived::Nothing, Arrived::Elsewhere, Arrived::InPlace][(i + (dtype == F32) as usize) % 3];
            let case = Case { dtype, n, d, eps: if i % 2 == 0 { 0.5 } else { 1e-6 }, residual: i % 3 != 1, arrived };
            let name = format!("rmsnorm {dtype:?} of N {n}, D {d}, {arrived:?} arrived");
            let [y, dx, dweight] = twice(&name, || case.run());
            let (exact, plain) = (case.oracle::<f64>(), case.oracle::<f32>());
            check(&format!("y of {name}"), &y, &exact.y, &rounded(dtype, &plain.y));
            check(&format!("dx of {name}"), &dx, &exact.dx[0], &rounded(dtype, &plain.dx[0]));
            check(&format!("dweight of {name}"), &dweight, &exact.dweight, &plain.dweight);
        }
    }
}
