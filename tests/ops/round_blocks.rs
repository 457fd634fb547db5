//! round_blocks: what ops compute in is, to the bit, what a GGUF gives back of the master weights.

use engine::autograd::{Gradients, Params, Tape};
use engine::device::{DType, Device, Tensor};
use engine::io::gguf_type::GgufType;
use engine::ops::adamw::{AdamW, Moments, Plan, adamw};
use engine::ops::clip::clip_factor;
use engine::ops::linear::linear;
use engine::ops::results::StepResults;
use half::bf16;
use rand::RngExt;

use crate::checks::check_refusal;
use crate::lists::round_blocks::{Case, cases};
use crate::lists::{rng, tensor};
use crate::places::places;

/// Numbers of every size that a scale in f16 can have, and some that it cannot: a size for each run of 32.
fn values(n: usize) -> Vec<f32> {
    let (mut rng, mut size) = (rng(5), 1.0f32);
    let mut number = |i: usize| {
        if i.is_multiple_of(32) {
            // No scale; from where its inverse is infinite to the largest scale; a step of 1; steps between two numbers of f16.
            let tie = 1.0 + 2f32.powi(-11);
            size = [0.0, 1.0, 0.02, 3.0e-3, 1.0e-5, 4.0e-7, 1.0e-7, 1.0e-39, 3.0e5, 127.0, 127.0 * tie, 8.0 * tie]
                [rng.random_range(0..12)];
        }
        match rng.random_range(0..16) {
            0 => 0.0,
            1 => -0.0,
            // Equal magnitudes of either sign, and halves of a step.
            2 => size,
            3 => -size,
            4 => size * 0.5 / 8.0,
            5 => size / 127.0 * 2.5,
            _ => size * rng.random_range(-1.0f32..1.0),
        }
    };
    let mut values: Vec<f32> = (0..n).map(&mut number).collect();
    if n > 1000 {
        values[..64].fill(0.0);
        values[32..64].fill(-0.0);
    }
    values
}

/// What a file of the case gives back.
fn from_file(case: &Case, values: &[f32]) -> Vec<f32> {
    let mut flat = values.to_vec();
    case.kind.round(&case.parameters, &mut flat).unwrap();
    flat
}

fn params(device: &Device, dtype: DType, case: &Case, values: &[f32]) -> Params {
    let flat = Tensor::from_slice(device, &[values.len()], values);
    let formats = case.kind.block_formats(&case.parameters).unwrap();
    Params::new(&case.specs(), flat).unwrap().rounded_in(dtype, &formats).unwrap()
}

/// The bits of what ops compute in.
fn computed(params: &Params) -> Vec<u64> {
    params.spans().iter().flat_map(|span| params.get(&span.name).value.to_f64()).map(f64::to_bits).collect()
}

fn bits_in(dtype: DType, values: &[f32]) -> Vec<u64> {
    let held = |x: f32| if dtype == DType::Bf16 { bf16::from_f32(x).to_f64() } else { f64::from(x) };
    values.iter().map(|&x| held(x).to_bits()).collect()
}

#[test]
fn what_is_computed_in_is_what_the_file_gives_back_to_the_bit() {
    for case in cases() {
        let values = values(case.len());
        let expected = from_file(&case, &values);
        assert!(expected != values);
        for place in places() {
            let params = params(&place.device(), place.dtype, &case, &values);
            let got = computed(&params);
            let wrong = got.iter().zip(bits_in(place.dtype, &expected)).position(|(a, b)| *a != b);
            assert!(wrong.is_none(), "{case:?}, {place:?}: element {wrong:?}");
            assert!(params.masters().unwrap().download::<f32>().unwrap() == values, "the masters stay");
        }
    }
}

#[test]
fn gradients_are_those_of_the_rounded_weights_and_updates_those_of_the_masters() {
    let case = &cases()[0];
    let values: Vec<f32> = values(case.len()).iter().map(|x| x.clamp(-1.0, 1.0)).collect();
    let rounded = from_file(case, &values);
    for place in places().into_iter().filter(|place| place.dtype == DType::F32) {
        let device = place.device();
        let as_masters = |values: &[f32]| {
            let flat = Tensor::from_slice(&device, &[values.len()], values);
            Params::new(&case.specs(), flat).unwrap()
        };
        // The gradients of a product's input and of its weight.
        let pass = |params: &Params| -> (Vec<Vec<f64>>, Gradients) {
            let mut gradients = params.gradients().unwrap();
            let mut tape = Tape::recording(&device, &mut gradients);
            let x = tape.var(tensor(&device, &[2, 96], DType::F32, &vec![0.25; 192]));
            let caught = crate::lists::catch(&mut tape, std::slice::from_ref(&x));
            let y = linear(&mut tape, &x, &params.get("p2")).unwrap();
            crate::lists::seed(&mut tape, vec![y], DType::F32, vec![vec![0.5, -1.0, 2.0, 1.0, 1.0, 1.0]]);
            assert!(tape.backward().is_err(), "other parameters got no gradient");
            (caught.take(), gradients)
        };
        let mut params = params(&device, DType::F32, case, &values);
        let (through, gradients) = pass(&params);
        let (expected, of_rounded) = pass(&as_masters(&rounded));
        assert!(through == expected && gradients.values.to_f64() == of_rounded.values.to_f64(), "{place:?}");
        // The same update of masters that are not rounded, then rounded.
        let update = |params: &mut Params| {
            let [mut m, mut v] = [(); 2].map(|()| params.zeros(&device).unwrap());
            let mut plan = Plan::new(&device, params.spans()).unwrap();
            let hyper = AdamW { learning_rate: 0.1, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.1, step: 1 };
            plan.set(&hyper, params).unwrap();
            let mut results = StepResults::zeros(&device).unwrap();
            clip_factor(&mut results, &gradients.values, 0.0).unwrap();
            let moments = Moments { m: &mut m, v: &mut v };
            adamw(params, moments, &gradients.values, &plan, &results).unwrap();
        };
        let mut plain = as_masters(&values);
        update(&mut plain);
        update(&mut params);
        let masters = params.masters().unwrap().download::<f32>().unwrap();
        assert!(masters == plain.masters().unwrap().download::<f32>().unwrap() && masters != values, "{place:?}");
        assert!(computed(&params) == bits_in(DType::F32, &from_file(case, &masters)), "{place:?}");
    }
}

#[test]
fn formats_without_blocks_and_rows_that_are_none_are_refused() {
    let case = &cases()[0];
    for kind in [GgufType::F32, GgufType::F16, GgufType::Bf16] {
        let error = kind.block_formats(&case.parameters).unwrap_err().to_string();
        assert!(error.contains(&format!("not to {}", kind.name())), "{error}");
    }
    let mut parameters = cases().swap_remove(0).parameters;
    parameters[2].spec.shape = vec![3, 33];
    assert!(GgufType::Q4_0.block_formats(&parameters).unwrap_err().to_string().contains("blocks of 32"));
}

#[test]
fn kernels_refuse_f64() {
    check_refusal("round_blocks", |device| {
        let case = &cases()[0];
        let flat = Tensor::zeros(device, &[case.len()], DType::F32)?;
        let formats = case.kind.block_formats(&case.parameters)?;
        Params::new(&case.specs(), flat)?.rounded_in(DType::F64, &formats).map(drop)
    });
}
