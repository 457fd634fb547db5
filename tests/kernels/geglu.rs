//! geglu against the CPU op.

use engine::device::bindings::engine_dtype;
use engine::launch;
use engine::ops::geglu::geglu;

use crate::array::{Array, BF16, F32, check, kernels, random, rounded, stream, twice};
use crate::oracle::{Pass, pass};

/// x (N, 2F) and dy (N, F); wide enough that tanh saturates on both sides.
fn inputs(dtype: engine_dtype, n: u32, f: u32) -> (Vec<f64>, Vec<f64>) {
    let len = (n * f) as usize;
    (random(dtype, 1, 2 * len, 6.0), random(dtype, 2, len, 1.0))
}

fn oracle<T: engine::host::simd::Real>(dtype: engine_dtype, n: u32, f: u32) -> Pass {
    let (x, dy) = inputs(dtype, n, f);
    let x = (vec![n as usize, 2 * f as usize], x);
    pass::<T>(&[x], &(vec![1], vec![0.0]), &dy, 0.0, |tape, v, _| geglu(tape, &v[0]))
}

/// y, dx
fn run(dtype: engine_dtype, n: u32, f: u32) -> [Vec<f64>; 2] {
    let (x, dy) = inputs(dtype, n, f);
    let (mut y, mut dx) = (Array::empty(dtype, dy.len()), Array::empty(dtype, x.len()));
    let (x, dy) = (Array::new(dtype, &x), Array::new(dtype, &dy));
    let stream = stream();
    // SAFETY: arrays of the shapes that engine.h asks for.
    unsafe {
        launch!(kernels(), geglu_forward { n, f }(y.mut_ptr(), x.ptr(), n, f, dtype, stream)).unwrap();
        launch!(kernels(), geglu_backward { n, f }(dx.mut_ptr(), dy.ptr(), x.ptr(), n, f, dtype, stream)).unwrap();
    }
    [y.values(), dx.values()]
}

#[test]
fn geglu_equals_the_cpu_op() {
    for (n, f) in [(1, 1), (2, 8), (5, 33), (17, 128), (113, 19), (203, 24)] {
        for dtype in [F32, BF16] {
            let name = format!("geglu {dtype:?} of N {n}, F {f}");
            let [y, dx] = twice(&name, || run(dtype, n, f));
            let (exact, plain) = (oracle::<f64>(dtype, n, f), oracle::<f32>(dtype, n, f));
            check(&format!("y of {name}"), &y, &exact.y, &rounded(dtype, &plain.y));
            check(&format!("dx of {name}"), &dx, &exact.dx[0], &rounded(dtype, &plain.dx[0]));
        }
    }
}
