//! Layers that are computed again in the backward, in whole (gradient checkpointing) or selectively, give the bits of those that are kept, and take
//! less memory.

use engine::autograd::{Recompute, Rounding, Tape};
use engine::batch::Example;
use engine::device::{DType, Device, Purpose, Tensor, counted};
use engine::model::gemma3::Gemma3;
use engine::model::gemma3::adapter::Adapter;
use engine::model::gemma3::config::Gemma3Config;
use engine::model::gemma3::lora::{ALL_LINEAR, Lora};
use engine::model::gemma3::table::{parameter_count, parameter_specs};
use engine::ops::adamw::AdamW;
use engine::ops::cross_entropy::linear_cross_entropy;
use engine::train::step::{Step, StepResult};
use serde_json::Value;

use crate::places::places;
use crate::tiny::{config, examples, tree, weights, wide};

fn flat(device: &Device, values: &[f64], dtype: DType) -> Tensor {
    match dtype {
        DType::F64 => Tensor::from_slice(device, &[values.len()], values),
        _ => Tensor::from_slice(device, &[values.len()], &values.iter().map(|&x| x as f32).collect::<Vec<_>>()),
    }
}

fn model(device: &Device, config: &Gemma3Config, dtype: DType) -> Gemma3 {
    let weights = flat(device, &weights(config, 4), dtype);
    Gemma3::new(config.clone(), weights).unwrap().computed_in(dtype).unwrap()
}

/// The same model under an adapter of these modules with dropout, whose matrices are as after some training.
fn adapted(device: &Device, config: &Gemma3Config, dtype: DType, targets: &[&str]) -> Gemma3 {
    let target_modules = targets.iter().map(|&name| name.to_owned()).collect();
    let lora = Lora { rank: 2, alpha: 3.0, dropout: 0.25, target_modules, ..Lora::default() }.resolved();
    let count = parameter_count(&lora.specs(config).unwrap());
    let values = &weights(config, 5)[..count];
    let adapter = Adapter::new(config, lora, flat(device, values, dtype)).unwrap();
    model(device, config, DType::F32).adapted(adapter, dtype).unwrap()
}

/// What three steps of two micro-batches measure, and the weights that they leave.
fn train(mut model: Gemma3, graphs: bool, recompute: Recompute) -> (Vec<StepResult>, Vec<f64>) {
    let mut step = Step::new(&model, 1.0, graphs).unwrap().recomputing(Some(recompute));
    let results = (1..=3).map(|number| {
        let mut examples = examples();
        examples.rotate_left(number as usize);
        let (first, second) = examples.split_at(2);
        let hyper = AdamW { learning_rate: 1e-2, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, step: number };
        step.run(&mut model, vec![tree(first), tree(second)], &hyper).unwrap()
    });
    (results.collect(), model.trained().masters().unwrap().to_f64())
}

#[test]
fn steps_are_equal_to_the_bit() {
    for (place, config) in places().into_iter().zip([config(), wide()].iter().cycle()) {
        let model = || model(&place.device(), config, place.dtype);
        let expected = train(model(), false, Recompute::Nothing);
        assert!(expected.0[2].mean_loss() < expected.0[0].mean_loss());
        for recompute in [Recompute::Selective, Recompute::Full] {
            assert!(train(model(), false, recompute) == expected, "{place:?}: {recompute:?}");
            if place.device().driver().captures_graphs() {
                assert!(train(model(), true, recompute) == expected, "{place:?}: {recompute:?} in graphs");
            }
        }
    }
}

#[test]
fn steps_of_an_adapter_are_equal_to_the_bit() {
    for place in places().into_iter().filter(|place| place.dtype != DType::F64) {
        for targets in [&[ALL_LINEAR][..], &["q_proj", "v_proj"]] {
            let model = || adapted(&place.device(), &config(), place.dtype, targets);
            let graphs = place.device().driver().captures_graphs();
            let expected = train(model(), false, Recompute::Nothing);
            for recompute in [Recompute::Selective, Recompute::Full] {
                assert!(train(model(), graphs, recompute) == expected, "{place:?}: {targets:?}: {recompute:?}");
            }
        }
    }
}

#[test]
fn what_is_rounded_between_ops_is_rounded_in_the_second_run_too() {
    let gradients = |recompute| {
        let model = model(&engine::host::device(), &config(), DType::F32);
        let (tree, mut gradients) = (tree(&examples()), model.params.gradients().unwrap());
        let tape = Tape::recording(model.device(), &mut gradients).rounded(Rounding::Bf16);
        let mut tape = tape.recomputing(recompute);
        let hidden = model.forward(&mut tape, &model.batch(&tree).unwrap(), None).unwrap();
        let sums = linear_cross_entropy(&mut tape, &hidden, &model.embedding(), &tree.targets, 1.0).unwrap();
        tape.backward().unwrap();
        (sums, gradients.values.to_f64())
    };
    let expected = gradients(Recompute::Nothing);
    assert!(gradients(Recompute::Selective) == expected);
    assert!(gradients(Recompute::Full) == expected);
}

/// The same model with so many layers, all alike.
fn with_layers(layers: usize) -> Gemma3Config {
    let mut value = wide().to_value("float32");
    value["num_hidden_layers"] = layers.into();
    value["layer_types"] = Value::from(vec!["full_attention"; layers]);
    Gemma3Config::from_value(value).unwrap()
}

/// The most bytes of activations that a step over these rows holds at once.
fn peak_of(examples: &[Example], layers: usize, recompute: Option<Recompute>) -> usize {
    // The emulated device rounds no sizes.
    let device = counted::device(&engine::emulated::device().unwrap());
    let config = with_layers(layers);
    let count = parameter_count(&parameter_specs(&config));
    let weights = Tensor::empty(&device.of(Purpose::Weights), &[count], DType::F32).unwrap();
    let mut model = Gemma3::new(config, weights).unwrap().computed_in(DType::Bf16).unwrap();
    let mut step = Step::new(&model, 1.0, false).unwrap().recomputing(recompute);
    let hyper = AdamW { learning_rate: 1e-2, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, step: 1 };
    step.run(&mut model, vec![tree(examples)], &hyper).unwrap();
    device.peak_bytes_of(Purpose::Activations)
}

#[test]
fn of_many_rows_what_costs_little_is_computed_again_unasked() {
    let peak = |rows: u32, recompute| {
        let ids = (0..rows).map(|id| id % 16).collect();
        let example = Example { ids, scored: vec![true; rows as usize], origin: String::new() };
        peak_of(&[example], 4, recompute)
    };
    let [all, less] = [Recompute::Nothing, Recompute::Selective].map(Some);
    assert_eq!(peak(4096, None), peak(4096, all));
    assert_eq!(peak(4097, None), peak(4097, less));
    assert!(peak(4097, less) < peak(4097, all));
}

#[test]
fn a_layer_more_takes_the_memory_of_what_is_kept_of_it() {
    // Batches of the emulated device are padded for graphs.
    let (rows, config) = (64, wide());
    let (d, f) = (config.hidden_size, config.intermediate_size);
    let (q, qkv) = (4 * config.head_dim, 6 * config.head_dim);
    let peak = |layers, recompute| peak_of(&examples(), layers, Some(recompute));
    let more = |recompute| peak(5, recompute) - peak(4, recompute);
    // So many numbers of bf16 and of f32 in a row.
    let bytes = |half, full| rows * (half * DType::Bf16.size() + full * DType::F32.size());
    // The stream and its norm, down_proj; rstd of the norms after that.
    assert_eq!(more(Recompute::Full), bytes(3 * d, 2));
    // And qkv, o, o_proj, gate and up; lse.
    assert_eq!(more(Recompute::Selective), bytes(4 * d + qkv + q + 2 * f, 2 + 4));
    // And qkv after norm and rotation, the sum in the middle and its norm; rstd of those norms.
    assert_eq!(more(Recompute::Nothing), bytes(6 * d + 2 * qkv + q + 2 * f, 4 + 4));
}
