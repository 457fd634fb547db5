//! adamw against the CPU op: groups that decay and groups that do not, of odd lengths.

use engine::autograd::Span;
use engine::device::bindings::engine_adamw_step;
use engine::device::{Device, Tensor};
use engine::host::simd::Real;
use engine::launch;
use engine::ops::adamw::{AdamW, AdamWState, adamw};

use crate::array::{Array, BF16, Buffer, F32, check, kernels, random, rounded, stream, twice};

const HYPER: AdamW =
    AdamW { learning_rate: 0.01, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.1, step: 3, clip: 0.5 };

/// parameters, m, v, gradients
fn inputs(n: usize) -> [Vec<f64>; 4] {
    let v = random(F32, 3, n, 0.2).iter().map(|x| x.abs()).collect();
    let mut inputs = [random(F32, 1, n, 1.0), random(F32, 2, n, 0.1), v, random(F32, 4, n, 1.0)];
    // Parameters that have never had a gradient: 0 / 0 but for eps.
    for values in &mut inputs[1..] {
        values.iter_mut().skip(2).step_by(7).for_each(|x| *x = 0.0);
    }
    inputs
}

/// parameters, m and v after the update.
fn oracle<T: Real>(lengths: &[usize]) -> [Vec<f64>; 3] {
    let device = Device::cpu();
    let n: usize = lengths.iter().sum();
    let typed = |values: Vec<f64>| values.into_iter().map(T::from_f64).collect::<Vec<T>>();
    let [mut p, mut m, mut v, mut g] = inputs(n).map(|x| Tensor::from_slice(&device, &[n], &typed(x)));
    let mut offset = 0;
    let spans = lengths.iter().enumerate().map(|(i, &length)| {
        offset += length;
        Span { name: format!("p{i}"), shape: vec![length], offset: offset - length, decay: i % 2 == 0 }
    });
    let spans: Vec<Span> = spans.collect();
    let state = AdamWState { params: &mut p, gradients: &mut g, m: &mut m, v: &mut v };
    adamw(state, &spans, &HYPER).unwrap();
    [p, m, v].map(|x| x.to_f64())
}

/// parameters, m, v, gradients, bf16 copy
fn run(lengths: &[usize], factor: f64) -> [Vec<f64>; 5] {
    let n: usize = lengths.iter().sum();
    let [mut p, mut m, mut v, mut g] = inputs(n).map(|x| Array::new(F32, &x));
    let mut copy = Array::empty(BF16, n);
    let ends = lengths.iter().scan(0, |sum, &length| {
        *sum += length as u64;
        Some(*sum)
    });
    let starts: Vec<u64> = std::iter::once(0).chain(ends).collect();
    let decays: Vec<f32> =
        (0..lengths.len()).map(|i| if i % 2 == 0 { HYPER.weight_decay as f32 } else { 0.0 }).collect();
    let (b1, b2) = HYPER.betas;
    let constants = [
        HYPER.learning_rate,
        b1,
        b2,
        HYPER.eps,
        HYPER.learning_rate / (1.0 - b1.powi(HYPER.step as i32)),
        1.0 / (1.0 - b2.powi(HYPER.step as i32)).sqrt(),
    ];
    let (starts, decays) = (Buffer::from_slice(&starts).unwrap(), Buffer::from_slice(&decays).unwrap());
    let (step, factor) = (Array::new(F32, &constants), Array::new(F32, &[factor]));
    let step = step.ptr::<engine_adamw_step>();
    let (starts, decays, groups, n) = (starts.as_ptr(), decays.as_ptr(), lengths.len() as u32, n as u64);
    let (state, out) = ((p.mut_ptr(), m.mut_ptr(), v.mut_ptr(), g.mut_ptr()), copy.mut_ptr());
    let stream = stream();
    // SAFETY: arrays of the sizes that engine.h asks for; the step is six f32 in the order of its struct.
    unsafe {
        launch!(
            kernels(),
            adamw { n, groups }(
                state.0,
                state.1,
                state.2,
                state.3,
                out,
                factor.ptr(),
                step,
                starts,
                decays,
                groups,
                n,
                stream
            )
        )
        .unwrap();
    }
    [p, m, v, g, copy].map(|x| x.values())
}

#[test]
fn adamw_equals_the_cpu_op() {
    // Groups end in the middle of a vector of four; one is empty.
    for lengths in [vec![1], vec![3, 2], vec![17, 113, 1, 1, 1, 0, 203], vec![4096, 8, 40], vec![5000, 257]] {
        let name = format!("adamw of {lengths:?}");
        let [p, m, v, g, copy] = twice(&name, || run(&lengths, HYPER.clip));
        let (exact, plain) = (oracle::<f64>(&lengths), oracle::<f32>(&lengths));
        for (what, got, exact, plain) in
            [("p", &p, &exact[0], &plain[0]), ("m", &m, &exact[1], &plain[1]), ("v", &v, &exact[2], &plain[2])]
        {
            check(&format!("{what} of {name}"), got, exact, plain);
        }
        assert!(g.iter().all(|&g| g == 0.0), "{name} zeroes the gradient");
        assert_eq!(copy, rounded(BF16, &p), "the copy of {name}");
    }
}

#[test]
fn with_a_factor_of_nan_nothing_happens() {
    let lengths = [17, 1024];
    let [p, m, v, g, copy] = run(&lengths, f64::NAN);
    assert_eq!([p, m, v, g], inputs(lengths.iter().sum()));
    assert!(copy.iter().all(|x| x.is_nan()), "the copy is not written");
}
