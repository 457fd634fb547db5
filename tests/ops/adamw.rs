//! adamw: torch's update, one number at a time.

use engine::autograd::Span;
use engine::device::Tensor;
use engine::ops::adamw::{AdamW, AdamWState, adamw};

use engine::host::simd::Real;

use crate::cases::{poisoned_device, random, rng, tensor};
use crate::properties::check_close;

/// One parameter of torch.optim.AdamW, written as torch's `_single_tensor_adamw` is.
#[derive(Clone, Copy, Debug, Default)]
struct Scalar {
    p: f64,
    m: f64,
    v: f64,
}

impl Scalar {
    fn step(&mut self, g: f64, hyper: &AdamW, decay: bool) {
        let (beta1, beta2) = hyper.betas;
        let g = g * hyper.clip;
        if decay {
            self.p *= 1.0 - hyper.learning_rate * hyper.weight_decay;
        }
        self.m += (g - self.m) * (1.0 - beta1);
        self.v = self.v * beta2 + g * g * (1.0 - beta2);
        let bias1 = 1.0 - beta1.powf(hyper.step as f64);
        let bias2 = 1.0 - beta2.powf(hyper.step as f64);
        let denominator = self.v.sqrt() / bias2.sqrt() + hyper.eps;
        self.p -= hyper.learning_rate / bias1 * (self.m / denominator);
    }
}

/// Two groups: matrices that decay around norms that do not. Beyond one block of 65,536, and odd.
fn spans() -> Vec<Span> {
    let shapes = [(vec![3, 5], true), (vec![17], false), (vec![257, 259], true), (vec![1], false)];
    let mut offset = 0;
    let span = |(shape, decay): (Vec<usize>, bool)| {
        let span = Span { name: format!("p{offset}"), shape, offset, decay };
        offset = span.range().end;
        span
    };
    shapes.into_iter().map(span).collect()
}

fn hyper(step: u64) -> AdamW {
    AdamW {
        learning_rate: 0.01 / step as f64,
        betas: (0.9, 0.95),
        eps: 1e-3,
        weight_decay: 0.1,
        step,
        clip: if step == 2 { 0.25 } else { 1.0 },
    }
}

/// The gradient of a step.
fn gradient(step: u64, n: usize) -> Vec<f64> {
    random(&mut rng(100 + step), n, 1.0)
}

struct State {
    params: Tensor,
    gradients: Tensor,
    m: Tensor,
    v: Tensor,
}

const STEPS: u64 = 5;

/// The state after [`STEPS`] updates.
fn run<T: Real>() -> State {
    let (device, spans) = (poisoned_device(), spans());
    let n = spans.last().unwrap().range().end;
    let zeros = || Tensor::zeros(&device, &[n], T::DTYPE).unwrap();
    let mut state =
        State { params: tensor::<T>(&device, &[n], &gradient(0, n)), gradients: zeros(), m: zeros(), v: zeros() };
    for step in 1..=STEPS {
        let g: Vec<T> = gradient(step, n).into_iter().map(T::from_f64).collect();
        state.gradients.as_mut::<T>().unwrap().copy_from_slice(&g);
        let State { params, gradients, m, v } = &mut state;
        adamw(AdamWState { params, gradients, m, v }, &spans, &hyper(step)).unwrap();
    }
    state
}

/// The weights, first and second moments by the scalar formula.
fn expected() -> Vec<Vec<f64>> {
    let spans = spans();
    let n = spans.last().unwrap().range().end;
    let mut scalars: Vec<Scalar> = gradient(0, n).into_iter().map(|p| Scalar { p, m: 0.0, v: 0.0 }).collect();
    for step in 1..=STEPS {
        let gradient = gradient(step, n);
        for span in &spans {
            for i in span.range() {
                scalars[i].step(gradient[i], &hyper(step), span.decay);
            }
        }
    }
    let part = |of: fn(&Scalar) -> f64| scalars.iter().map(of).collect();
    vec![part(|s| s.p), part(|s| s.m), part(|s| s.v)]
}

fn lists(state: &State) -> Vec<Vec<f64>> {
    vec![state.params.to_f64(), state.m.to_f64(), state.v.to_f64()]
}

#[test]
fn five_updates_equal_torch_s_formula() {
    // Some twenty roundings an update.
    check_close("f64", &lists(&run::<f64>()), &expected(), 100.0 * f64::EPSILON);
    check_close("f32", &lists(&run::<f32>()), &expected(), 100.0 * f32::EPSILON as f64);
}

#[test]
fn an_update_zeroes_the_gradient() {
    assert!(run::<f32>().gradients.to_f64().iter().all(|&g| g == 0.0));
}

#[test]
fn the_first_update_moves_every_weight_by_the_learning_rate() {
    // Bias correction makes m / sqrt(v) the sign of the gradient: without it the first step would be 0.1 / sqrt(0.05) as long.
    let device = poisoned_device();
    let spans = [Span { name: "p".into(), shape: vec![4], offset: 0, decay: false }];
    let mut params = tensor::<f64>(&device, &[4], &[1.0; 4]);
    let mut gradients = tensor::<f64>(&device, &[4], &[2.0, -3.0, 1e-3, -1e3]);
    let (mut m, mut v) = (tensor::<f64>(&device, &[4], &[0.0; 4]), tensor::<f64>(&device, &[4], &[0.0; 4]));
    let hyper = AdamW { eps: 0.0, clip: 1.0, ..hyper(1) };
    let state = AdamWState { params: &mut params, gradients: &mut gradients, m: &mut m, v: &mut v };
    adamw(state, &spans, &hyper).unwrap();
    check_close("weights", &[params.to_f64()], &[vec![0.99, 1.01, 0.99, 1.01]], 1e-15);
}

#[test]
fn a_weight_without_a_gradient_only_decays() {
    let device = poisoned_device();
    let span = |name: &str, offset, decay| Span { name: name.into(), shape: vec![1], offset, decay };
    let spans = [span("matrix", 0, true), span("norm", 1, false)];
    let mut params = tensor::<f64>(&device, &[2], &[2.0, 2.0]);
    let [mut gradients, mut m, mut v] = [(); 3].map(|_| tensor::<f64>(&device, &[2], &[0.0, 0.0]));
    let state = AdamWState { params: &mut params, gradients: &mut gradients, m: &mut m, v: &mut v };
    adamw(state, &spans, &hyper(1)).unwrap();
    assert_eq!(params.to_f64(), [2.0 * (1.0 - 0.01 * 0.1), 2.0]);
}

#[test]
fn updates_repeat_to_the_bit_on_any_number_of_threads() {
    let run = || lists(&run::<f32>());
    let first = run();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert!(pool.install(run) == first, "{threads} threads");
    }
}
