//! adamw: torch's update, one number at a time.

use engine::autograd::{ParamSpec, Params};
use engine::device::bindings::{engine_adamw_step, engine_step_results};
use engine::device::driver::engine_dtype;
use engine::device::{DType, Device, Tensor};
use engine::launch;
use engine::ops::adamw::{AdamW, Moments, Plan, adamw};

use crate::arrays::{array, long_indices, results, unwritten};
use crate::checks::{check_close, check_refusal, check_twice_plain};
use crate::guarded;
use crate::lists::adamw::{Case, cases};
use crate::lists::{random, rng, round};
use crate::places::{devices, places};

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

fn hyper(step: u64) -> AdamW {
    AdamW { learning_rate: 0.01 / step as f64, betas: (0.9, 0.999), eps: 1e-3, weight_decay: 0.1, step }
}

/// What the gradients of a step are multiplied by.
fn factor(step: u64) -> f64 {
    if step == 2 { 0.25 } else { 1.0 }
}

/// The gradient of a step. Every seventh parameter never gets one: 0 / 0 but for eps.
fn gradient(step: u64, n: usize) -> Vec<f64> {
    let mut gradient = random(DType::F32, &mut rng(100 + step), n, 1.0);
    gradient.iter_mut().skip(2).step_by(7).for_each(|g| *g = 0.0);
    gradient
}

/// Parameters on a device, and all that an update changes and reads beside them.
struct State {
    params: Params,
    m: Tensor,
    v: Tensor,
    gradients: Tensor,
    plan: Plan,
}

impl State {
    /// `dtype`: what ops compute in.
    fn new(device: &Device, dtype: DType, specs: &[ParamSpec], values: &[f64]) -> Self {
        let master = dtype.accumulator();
        let params = Params::new(specs, array(device, master, values)).unwrap().computed_in(dtype).unwrap();
        let [m, v] = [(); 2].map(|()| params.zeros(device).unwrap());
        let (gradients, plan) = (unwritten(device, master, values.len()), Plan::new(device, params.spans()).unwrap());
        Self { params, m, v, gradients, plan }
    }

    fn update(&mut self, gradient: &[f64], hyper: &AdamW, clip_factor: f64) {
        let device = self.gradients.device().clone();
        self.gradients = array(&device, self.gradients.dtype(), gradient);
        self.plan.set(hyper, &self.params).unwrap();
        let results = results(&device, &engine_step_results { clip_factor, ..ZEROS });
        let moments = Moments { m: &mut self.m, v: &mut self.v };
        adamw(&mut self.params, moments, &self.gradients, &self.plan, &results).unwrap();
        self.params.updated(hyper.step);
    }

    /// Weights, first and second moments.
    fn lists(&self) -> Vec<Vec<f64>> {
        [&self.params.masters().unwrap(), &self.m, &self.v].map(Tensor::to_f64).into()
    }
}

const ZEROS: engine_step_results =
    engine_step_results { loss: 0.0, entropy: 0.0, correct: 0.0, scored: 0.0, grad_norm: 0.0, clip_factor: 0.0 };

const STEPS: u64 = 5;

fn after_all_steps(device: &Device, dtype: DType, case: &Case) -> State {
    let n = case.len();
    let mut state = State::new(device, dtype, &case.specs(), &gradient(0, n));
    (1..=STEPS).for_each(|step| state.update(&gradient(step, n), &hyper(step), factor(step)));
    state
}

/// The weights, first and second moments by the scalar formula.
fn expected(case: &Case) -> Vec<Vec<f64>> {
    let n = case.len();
    let group = |(g, &length): (usize, &usize)| std::iter::repeat_n(g % 2 == 0, length);
    let decays: Vec<bool> = case.lengths.iter().enumerate().flat_map(group).collect();
    let mut scalars: Vec<Scalar> = gradient(0, n).into_iter().map(|p| Scalar { p, m: 0.0, v: 0.0 }).collect();
    for step in 1..=STEPS {
        for ((scalar, g), &decay) in scalars.iter_mut().zip(gradient(step, n)).zip(&decays) {
            scalar.step(g * factor(step), &hyper(step), decay);
        }
    }
    let part = |of: fn(&Scalar) -> f64| scalars.iter().map(of).collect();
    vec![part(|s| s.p), part(|s| s.m), part(|s| s.v)]
}

/// The copy of these weights after update `step`, and the lower halves of their bits, by the host's `split_weights`.
fn halves(weights: &[f64], step: u64) -> [Vec<f64>; 2] {
    let device = engine::host::device();
    let (n, driver) = (weights.len() as u64, device.driver());
    let mut halves = [DType::Bf16, DType::U16].map(|dtype| unwritten(&device, dtype, weights.len()));
    let [copy, lower] = halves.each_mut().map(|half| half.address_mut().unwrap());
    let from = array(&device, DType::F32, weights);
    // SAFETY: n elements each.
    unsafe {
        launch!(driver, split_weights { n }(copy, lower, from.address(), n, step, driver.stream())).unwrap();
    }
    halves.map(|half| half.to_f64())
}

#[test]
fn five_updates_on_the_host_equal_torch_s_formula() {
    // Some twenty roundings an update.
    for case in cases() {
        let after = |dtype| after_all_steps(&guarded::host(), dtype, &case).lists();
        check_close(&format!("f64, {case:?}"), &after(DType::F64), &expected(&case), 100.0 * f64::EPSILON);
        let tolerance = 100.0 * f64::from(f32::EPSILON);
        check_close(&format!("f32, {case:?}"), &after(DType::F32), &expected(&case), tolerance);
    }
}

#[test]
fn every_device_and_type_is_as_precise_as_plain_rounding() {
    for case in cases() {
        let (exact, plain) = (expected(&case), after_all_steps(&guarded::host(), DType::F32, &case).lists());
        for place in places() {
            let name = format!("{case:?} at {place:?}");
            let (got, copy) = place.twice(&name, || {
                let state = after_all_steps(&place.device(), place.dtype, &case);
                let computed = state.params.spans().iter().flat_map(|s| state.params.get(&s.name).value.to_f64());
                (state.lists(), computed.collect::<Vec<f64>>())
            });
            for (i, what) in ["weights", "m", "v"].into_iter().enumerate() {
                check_twice_plain(&format!("{what} of {name}"), &got[i], &exact[i], &plain[i], 0.0);
            }
            let rounded = if place.dtype == DType::Bf16 { halves(&got[0], STEPS)[0].clone() } else { got[0].clone() };
            assert!(copy == rounded, "the weights that ops compute with, of {name}");
        }
    }
}

#[test]
fn the_second_moment_takes_1_minus_beta2_from_f64() {
    // In f32 the difference would be off by 1.3e-5; what is left are the roundings of the factor and of two products.
    for place in places() {
        let g = [1.0, -0.75, 3.0, 1e-3].map(|g| round(DType::F32, g));
        let specs = Case { lengths: vec![4] }.specs();
        let mut state = State::new(&place.device(), place.dtype, &specs, &[1.0; 4]);
        state.update(&g, &hyper(1), 1.0);
        for (v, g) in state.v.to_f64().iter().zip(g) {
            let error = (v / (g * g * (1.0 - 0.999)) - 1.0).abs();
            assert!(error <= 2.0 * f64::from(f32::EPSILON), "{place:?}: v of gradient {g} is {v}: off by {error:.1e}");
        }
    }
}

#[test]
fn the_first_update_moves_every_weight_by_the_learning_rate() {
    // Bias correction makes m / sqrt(v) the sign of the gradient: without it the first step would be 3 times as long.
    let expected = [0.99, 1.01, 0.99, 1.01];
    let after = |device: &Device, dtype: DType| {
        let mut state = State::new(device, dtype, &Case { lengths: vec![0, 4] }.specs(), &[1.0; 4]);
        state.update(&[2.0, -3.0, 1e-3, -1e3], &AdamW { eps: 0.0, ..hyper(1) }, 1.0);
        [state.params.masters().unwrap().to_f64()]
    };
    check_close("f64", &after(&guarded::host(), DType::F64), &[expected.into()], 1e-15);
    for place in places() {
        // The step's roundings are a hundredth of those of the weight.
        let tolerance = f64::from(f32::EPSILON);
        check_close(&format!("{place:?}"), &after(&place.device(), place.dtype), &[expected.into()], tolerance);
    }
}

#[test]
fn a_weight_without_a_gradient_only_decays() {
    let after = |device: &Device, dtype: DType| {
        let mut state = State::new(device, dtype, &Case { lengths: vec![1, 1] }.specs(), &[2.0; 2]);
        state.update(&[0.0; 2], &hyper(1), 1.0);
        state.params.masters().unwrap().to_f64()
    };
    let kept = 2.0 * (1.0 - 0.01 * 0.1);
    assert_eq!(after(&guarded::host(), DType::F64), [kept, 2.0]);
    for place in places() {
        let weights = after(&place.device(), place.dtype);
        assert!((weights[0] - kept).abs() <= f64::from(f32::EPSILON) && weights[1] == 2.0, "{place:?}: {weights:?}");
    }
}

/// The step's numbers for a launcher: update 1, of weights that are split by update 0.
fn numbers(device: &Device, hyper: &AdamW) -> Tensor {
    let AdamW { learning_rate, betas: (beta1, beta2), eps, weight_decay, .. } = *hyper;
    let numbers = [learning_rate, weight_decay, eps, beta1, beta2, 1.0 - beta1, 1.0 - beta2, 0.1, 1.5, 1.0, 0.0];
    assert_eq!(size_of_val(&numbers), size_of::<engine_adamw_step>());
    array(device, DType::F64, &numbers)
}

/// Parameters, m, v and gradients after the launcher's update, of 17 numbers of `before` each; `is_split`: instead of the parameters
/// their halves, and these first. Groups begin at 0, 3 (empty), 3 and 10, with these `decays`.
fn launched(device: &Device, before: [f64; 4], decays: [f64; 4], clip_factor: f64, is_split: bool) -> Vec<Vec<f64>> {
    let n = 17;
    let [p, mut m, mut v, g] = before.map(|x| array(device, DType::F32, &vec![x; n]));
    let mut weights = vec![p];
    if is_split {
        let of = |dtype, values: Vec<f64>| array(device, dtype, &values);
        let [copy, lower] = halves(&vec![before[0]; n], 0);
        weights = vec![of(DType::Bf16, copy), of(DType::U16, lower)];
    }
    let results = results(device, &engine_step_results { clip_factor, ..ZEROS });
    let (step, decays) = (numbers(device, &hyper(1)), array(device, DType::F32, &decays));
    let starts = long_indices(device, &[0, 3, 3, 10, n as u64]);
    let addresses: Vec<_> = weights.iter_mut().map(|x| x.address_mut().unwrap()).collect();
    let (parameters, copy) = match addresses[..] {
        [copy, lower] => (lower, copy),
        _ => (addresses[0], std::ptr::null_mut()),
    };
    let (m_at, v_at) = (m.address_mut().unwrap(), v.address_mut().unwrap());
    let (starts, decays, gradients) = (starts.address().cast(), decays.address().cast(), g.address());
    let (driver, dtype) = (device.driver(), engine_dtype(DType::F32));
    let (results, step, groups, n, stream) = (results.address(), step.address().cast(), 4, n as u64, driver.stream());
    // SAFETY: arrays of the sizes that engine.h asks for.
    unsafe {
        launch!(
            driver,
            adamw { n }(
                parameters, m_at, v_at, copy, gradients, results, step, starts, decays, groups, n, dtype, stream
            )
        )
        .unwrap();
    }
    weights.extend([m, v, g]);
    weights.iter().map(Tensor::to_f64).collect()
}

#[test]
fn with_a_factor_of_nan_nothing_happens() {
    for place in places() {
        let before = [0.503, 0.25, 0.125, 2.0];
        let whole = launched(&place.device(), before, [1.0; 4], f64::NAN, false);
        let before_in_f32 = before.map(|x| vec![round(DType::F32, x); 17]);
        assert_eq!(whole, before_in_f32, "{place:?}");
        let split = launched(&place.device(), before, [1.0; 4], f64::NAN, true);
        assert_eq!(split[..2], halves(&before_in_f32[0], 0), "{place:?}");
        assert_eq!(split[2..], before_in_f32[1..], "{place:?}");
    }
}

#[test]
fn a_group_decays_by_its_own_share() {
    for place in places() {
        let update = |is_split| launched(&place.device(), [2.0, 0.0, 0.0, 0.0], [1.0, 64.0, 0.0, 16.0], 1.0, is_split);
        let (whole, split) = (update(false), update(true));
        assert_eq!((&split[..2], &split[2..]), (&halves(&whole[0], 1)[..], &whole[1..]), "{place:?}");
        let share = |i: usize| [1.0, 0.0, 16.0][usize::from(i >= 3) + usize::from(i >= 10)];
        for (i, p) in whole[0].iter().enumerate() {
            let expected = 2.0 * (1.0 - 0.01 * 0.1 * share(i));
            assert!((p - expected).abs() <= 2.0 * f64::from(f32::EPSILON), "{place:?}: weight {i} is {p}");
        }
    }
}

#[test]
fn weights_in_halves_are_updated_as_whole_ones_to_the_bit() {
    for case in cases() {
        for device in devices() {
            let [whole, split] = [DType::F32, DType::Bf16].map(|dtype| after_all_steps(&device, dtype, &case).lists());
            assert!(whole == split, "{case:?} on {}", device.driver().name());
        }
    }
}

#[test]
fn kernels_refuse_f64() {
    check_refusal("adamw", |device| {
        let mut state = State::new(device, DType::F64, &Case { lengths: vec![4] }.specs(), &[1.0; 4]);
        let (results, moments) = (results(device, &ZEROS), Moments { m: &mut state.m, v: &mut state.v });
        adamw(&mut state.params, moments, &state.gradients, &state.plan, &results)
    });
}
