//! Whole steps and generation through the driver, against the emulated device: the same kernels and the same order of sums,
//! so the same bits.

use std::cell::Cell;

use engine::autograd::Recompute;
use engine::device::bindings::engine_kernels;
use engine::device::kernels::Kernels;
use engine::device::{DType, Device, Tensor};
use engine::generate::{GenerateOptions, generate};
use engine::model::gemma3::Gemma3;
use engine::model::gemma3::config::Gemma3Config;
use engine::ops::adamw::AdamW;
use engine::train::step::{Step, StepResult};

use crate::cuda::Settings;
use crate::launches;
use crate::machine::{Gpu, USUAL, stand_in, survey};
use crate::story::{drawn, story};
use crate::tiny::{config, examples, tree, weights, wide};

fn model(device: &Device, config: &Gemma3Config, dtype: DType) -> Gemma3 {
    let weights: Vec<f32> = weights(config, 4).into_iter().map(|w| w as f32).collect();
    Gemma3::new(config.clone(), Tensor::from_slice(device, &[weights.len()], &weights))
        .unwrap()
        .computed_in(dtype)
        .unwrap()
}

/// How steps are done.
#[derive(Clone, Copy, Debug, Default)]
struct How {
    graphs: bool,
    gradient_checkpointing: bool,
}

/// Steps over batches of one size and changing contents; every seventh has two micro-batches. With graphs the first step of a
/// size runs, the second is captured, the others replay it.
fn train(device: &Device, config: &Gemma3Config, dtype: DType, how: How, steps: u64) -> (Vec<StepResult>, Vec<f64>) {
    let mut model = model(device, config, dtype);
    let step = Step::new(&model, 1.0, how.graphs).unwrap();
    let mut step = step.recomputing(how.gradient_checkpointing.then_some(Recompute::Full));
    let results = (0..steps).map(|i| {
        let mut examples = examples();
        examples.rotate_left(i as usize % 4);
        let (first, second) = examples.split_at(2);
        let window = if i % 7 == 3 { vec![tree(first), tree(second)] } else { vec![tree(first)] };
        let hyper = AdamW { learning_rate: 1e-2, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, step: i + 1 };
        step.run(&mut model, window, &hyper).unwrap()
    });
    (results.collect(), model.params.masters().unwrap().to_f64())
}

/// Steps with graphs and without, and of layers that are computed again, are those of the emulated device.
fn trains(config: &Gemma3Config, dtype: DType, steps: u64) {
    stand_in();
    let expected = train(&engine::emulated::device().unwrap(), config, dtype, How::default(), steps);
    let graphs = How { graphs: true, ..How::default() };
    for how in [How::default(), graphs, How { gradient_checkpointing: true, ..graphs }] {
        let gpu = Gpu::new();
        let trained = train(&gpu.open().unwrap(), config, dtype, how, steps);
        assert!(trained == expected, "{dtype:?}, {how:?}");
    }
}

#[test]
fn twenty_steps_are_those_of_the_emulated_device() {
    trains(&wide(), DType::Bf16, 20);
}

#[test]
fn steps_in_f32_with_rows_that_are_not_aligned_are_those_of_the_emulated_device() {
    trains(&config(), DType::F32, 3);
}

#[test]
fn waiting_for_every_op_changes_nothing() {
    let expected = train(&engine::emulated::device().unwrap(), &config(), DType::Bf16, How::default(), 2);
    let gpu = Gpu::new();
    let device = gpu.open_with(Settings { debug_sync: true, ..USUAL }).unwrap();
    assert!(!device.driver().captures_graphs());
    let graphs = How { graphs: true, ..How::default() };
    assert!(train(&device, &config(), DType::Bf16, graphs, 2) == expected);
}

#[test]
fn launchers_are_told_whether_kernels_may_overlap() {
    thread_local! {
        static TOLD: Cell<Option<bool>> = const { Cell::new(None) };
    }
    unsafe extern "C" fn tell(allowed: bool) {
        TOLD.set(Some(allowed));
    }
    for programmatic_launch in [true, false] {
        let table = engine_kernels { allow_programmatic_launch: Some(tell), ..*launches::kernels().table };
        let kernels = Kernels { table: Box::leak(Box::new(table)) };
        let gpu = Gpu::new();
        gpu.open_by(kernels, &survey(), Settings { programmatic_launch, ..USUAL }).unwrap();
        assert_eq!(TOLD.take(), Some(programmatic_launch));
    }
}

#[test]
fn generation_gives_the_emulated_devices_tokens() {
    let prompts: [&[u32]; 4] = [&[2, 7, 9, 4, 30, 11, 7, 7, 3], &[2, 7, 9, 4], &[13], &[2, 7, 5]];
    let options = GenerateOptions { max_new_tokens: 4, stop: vec![3], sampling: None, use_graphs: true };
    let tokens =
        |device: &Device| generate(&model(device, &wide(), DType::F32), &prompts, &options, |_| Ok(())).unwrap();
    let gpu = Gpu::new();
    assert_eq!(tokens(&gpu.open().unwrap()), tokens(&engine::emulated::device().unwrap()));
}

#[test]
fn decoders_give_the_emulated_devices_tokens_with_graphs_and_without() {
    for tokens in [story, drawn] {
        let tokens = |device: &Device, graphs| tokens(&model(device, &wide(), DType::Bf16), graphs);
        let gpu = Gpu::new();
        assert_eq!(tokens(&gpu.open().unwrap(), true), tokens(&engine::emulated::device().unwrap(), false));
    }
}
