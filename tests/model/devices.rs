//! Whole steps and generation on a device that runs the kernels, against the CPU: the same code path as on a GPU, minus
//! the driver. `ENGINE_TEST_DEVICE=cuda` runs them on one.

use engine::autograd::{Rounding, Tape};
use engine::batch::Example;
use engine::batch::tree::TokenTree;
use engine::device::{DType, Device, Tensor};
use engine::generate::{GenerateOptions, Sampling, generate};
use engine::model::gemma3::Gemma3;
use engine::model::gemma3::config::Gemma3Config;
use engine::ops::adamw::AdamW;
use engine::ops::cross_entropy::{LossSums, linear_cross_entropy};
use engine::train::step::{Step, StepResult};
use half::bf16;
use serde_json::json;

use crate::tiny::{config, example, weights};

/// The device of these tests.
fn device() -> Device {
    match std::env::var("ENGINE_TEST_DEVICE").as_deref() {
        Ok("cuda") => engine::cuda::device().unwrap(),
        _ => engine::emulated::device().unwrap(),
    }
}

/// Four heads on one, as in the real model; every width a whole number of 16 bytes, so that kernels take the fast path.
fn wide() -> Gemma3Config {
    let config = json!({
        "model_type": "gemma3_text",
        "vocab_size": 67,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention"],
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "max_position_embeddings": 64,
        "bos_token_id": 2,
        "eos_token_id": 1,
    });
    Gemma3Config::from_value(config).unwrap()
}

fn configs() -> [Gemma3Config; 2] {
    [config(), wide()]
}

/// A model whose weights bf16 holds exactly, in type T on the CPU.
fn on_cpu<T: engine::host::simd::Real>(config: &Gemma3Config, seed: u64) -> Gemma3 {
    let weights: Vec<T> = rounded_weights(config, seed).iter().map(|&w| T::from_f64(w)).collect();
    Gemma3::new(config.clone(), Tensor::from_slice(&Device::cpu(), &[weights.len()], &weights)).unwrap()
}

/// The same model on the device, computing in `dtype`.
fn on_device(device: &Device, config: &Gemma3Config, seed: u64, dtype: DType) -> Gemma3 {
    let weights: Vec<f32> = rounded_weights(config, seed).iter().map(|&w| w as f32).collect();
    let weights = Tensor::from_slice(device, &[weights.len()], &weights);
    Gemma3::new(config.clone(), weights).unwrap().computed_in(dtype).unwrap()
}

fn rounded_weights(config: &Gemma3Config, seed: u64) -> Vec<f64> {
    weights(config, seed).iter().map(|&w| bf16::from_f64(w).to_f64()).collect()
}

/// Rows that share prefixes at several depths, one that is a prefix of another, one given twice, one on its own that is
/// longer than a window.
fn examples() -> Vec<Example> {
    vec![
        example(&[2, 7, 9, 4, 30, 11, 7, 7, 3], 0),
        example(&[2, 7, 9, 4, 30, 12, 8], 3),
        example(&[2, 7, 9, 5, 5, 5, 5, 5, 5, 6], 4),
        example(&[2, 7, 9, 4], 0),
        example(&[2, 7, 9, 4], 0),
        example(&[13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23], 1),
    ]
}

fn tree(examples: &[Example]) -> TokenTree {
    TokenTree::from_examples(&examples.iter().collect::<Vec<_>>())
}

/// Loss sums and every gradient of the mean loss.
fn gradient(model: &Gemma3, rounding: Rounding) -> (LossSums, Vec<f64>) {
    let tree = tree(&examples());
    let mut gradients = model.params.gradients().unwrap();
    let mut tape = Tape::recording(model.device(), &mut gradients).rounded(rounding);
    let hidden = model.forward(&mut tape, &model.batch(&tree).unwrap(), None).unwrap();
    let head = model.embedding();
    let sums = linear_cross_entropy(&mut tape, &hidden, &head, &tree.targets, tree.num_scored()).unwrap();
    drop((hidden, head));
    tape.backward().unwrap();
    (sums, gradients.values.to_f64())
}

/// Root of the summed squares of a difference.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
}

#[test]
fn in_f32_loss_and_every_gradient_are_the_cpus() {
    for config in configs() {
        let (model, device) = (on_cpu::<f32>(&config, 1), device());
        let (sums, expected) = gradient(&model, Rounding::None);
        let (got_sums, got) = gradient(&on_device(&device, &config, 1, DType::F32), Rounding::None);
        assert!((got_sums.loss / sums.loss - 1.0).abs() < 1e-5 && (got_sums.entropy / sums.entropy - 1.0).abs() < 1e-5);
        assert_eq!((got_sums.correct, got_sums.scored), (sums.correct, sums.scored));
        for span in model.params.spans() {
            let (got, expected) = (&got[span.range()], &expected[span.range()]);
            let largest = expected.iter().fold(0.0f64, |m, g| m.max(g.abs()));
            let error = got.iter().zip(expected).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
            assert!(error <= 1e-5 * largest, "{}: {error:.2e} of {largest:.2e}", span.name);
        }
    }
}

#[test]
fn in_bf16_every_gradient_is_at_most_twice_as_far_off_as_plain_bf16() {
    // One model's error is one draw of chance, on either side: roundings of 2 layers grow into 1 to 10 % of a gradient.
    // The rule is about its size, the root mean square over some models.
    const MODELS: u64 = 8;
    for config in configs() {
        let spans = on_cpu::<f32>(&config, 1).params.spans().to_vec();
        let mut squares = vec![[0.0f64; 2]; spans.len()];
        for seed in 1..=MODELS {
            let device = device();
            let (exact_sums, exact) = gradient(&on_cpu::<f64>(&config, seed), Rounding::None);
            let (_, plain) = gradient(&on_cpu::<f32>(&config, seed), Rounding::Bf16);
            let (sums, got) = gradient(&on_device(&device, &config, seed, DType::Bf16), Rounding::None);
            assert!((sums.loss / exact_sums.loss - 1.0).abs() < 2e-3, "loss {} of {}", sums.loss, exact_sums.loss);
            for (span, squares) in spans.iter().zip(&mut squares) {
                let [got, plain, exact] = [&got, &plain, &exact].map(|g| &g[span.range()]);
                let size = distance(exact, &vec![0.0; exact.len()]);
                squares[0] += (distance(got, exact) / size).powi(2);
                squares[1] += (distance(plain, exact) / size).powi(2);
            }
        }
        for (span, squares) in spans.iter().zip(&squares) {
            let [error, plain] = squares.map(|sum| (sum / MODELS as f64).sqrt());
            assert!(error <= 2.0 * plain, "{}: {error:.2e}, plain bf16 {plain:.2e}", span.name);
        }
    }
}

/// A run of steps, each over the windows that `window` gives it.
fn train(
    model: &mut Gemma3,
    steps: u64,
    graphs: bool,
    window: impl Fn(u64) -> Vec<TokenTree>,
) -> (Vec<StepResult>, Vec<f64>) {
    let mut step = Step::new(model, 0.01, 1.0, graphs).unwrap();
    let mut results = Vec::new();
    for i in 0..steps {
        let hyper =
            AdamW { learning_rate: 1e-2, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, step: i + 1, clip: 1.0 };
        results.push(step.run(model, window(i), &hyper).unwrap());
    }
    (results, model.params.values.to_f64())
}

#[test]
fn twenty_steps_follow_the_cpus_loss_curve() {
    let config = wide();
    let window = |_| vec![tree(&examples())];
    let (expected, _) = train(&mut on_cpu::<f32>(&config, 3), 20, false, window);
    // f32 differs by rounding alone, which Adam amplifies; bf16 also by what its weights and activations cannot hold.
    for (dtype, allowed) in [(DType::F32, 1e-4), (DType::Bf16, 0.05)] {
        let device = device();
        let (results, _) = train(&mut on_device(&device, &config, 3, dtype), 20, true, window);
        for (i, (result, expected)) in results.iter().zip(&expected).enumerate() {
            let (loss, wanted) = (result.sums.loss / result.sums.scored, expected.sums.loss / expected.sums.scored);
            assert!((loss / wanted - 1.0).abs() < allowed, "{dtype:?}, step {i}: {loss}, the CPU's {wanted}");
            assert!((result.grad_norm / expected.grad_norm - 1.0).abs() < 10.0 * allowed, "norm of step {i}");
        }
        let loss = |r: &StepResult| r.sums.loss / r.sums.scored;
        assert!(loss(&results[19]) < 0.5 * loss(&results[0]), "it learns");
    }
}

#[test]
fn a_captured_graph_gives_the_losses_and_weights_of_single_launches_to_the_bit() {
    // Two micro-batches of changing contents and one size; the third step has another number of them. The first step of
    // a size is run, the second captured, the others replay it.
    let examples = examples();
    let window = |step: u64| {
        let (first, second) = examples.split_at(1 + step as usize % 3);
        if step == 2 { vec![tree(&examples)] } else { vec![tree(first), tree(second)] }
    };
    for dtype in [DType::F32, DType::Bf16] {
        let [graphs, single, again] = [true, false, true].map(|graphs| {
            let device = device();
            train(&mut on_device(&device, &config(), 4, dtype), 6, graphs, window)
        });
        assert!(graphs == single, "{dtype:?}");
        assert!(graphs == again, "{dtype:?}: run twice");
    }
}

#[test]
fn a_graph_outlives_the_rotation_tables_that_a_longer_row_replaces() {
    // Tables begin at 256 positions. The third step grows them, the fourth replays the graph of the second.
    let long: Vec<u32> = (0..300).map(|t| 2 + t % 29).collect();
    let window = |step| vec![tree(&if step == 2 { vec![example(&long, 295)] } else { examples() })];
    let [graphs, single] = [true, false].map(|graphs| {
        let device = device();
        train(&mut on_device(&device, &config(), 7, DType::F32), 4, graphs, window)
    });
    assert!(graphs == single);
}

#[test]
fn an_update_that_is_not_finite_is_not_applied() {
    let device = device();
    let mut model = on_device(&device, &config(), 5, DType::F32);
    let mut step = Step::new(&model, 0.0, 1.0, true).unwrap();
    let hyper = AdamW { learning_rate: 1e-2, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0, step: 1, clip: 1.0 };
    let mut values = model.params.values.to_f64();
    // The embedding of a token that one row has.
    let width = model.config.hidden_size;
    values[12 * width] = f64::INFINITY;
    let broken: Vec<f32> = values.iter().map(|&x| x as f32).collect();
    model.params.values.upload(&broken).unwrap();
    let result = step.run(&mut model, vec![tree(&examples())], &hyper).unwrap();
    assert!(!result.is_finite());
    assert_eq!(model.params.values.to_f64(), values);
    let good = step.run(&mut model, vec![tree(&examples()[3..])], &hyper);
    drop(good);
}

/// Shared prefixes, equal prompts, prompts that are prefixes of others, lengths around the windows.
const PROMPTS: [&[u32]; 6] = [
    &[2, 7, 9, 4, 30, 11, 7, 7, 3],
    &[2, 7, 9, 4],
    &[2],
    &[2, 7, 9, 4],
    &[13, 14, 15],
    &[2, 7, 9, 4, 30, 11, 7, 7, 3, 3, 3],
];

#[test]
fn generation_gives_the_cpus_tokens() {
    let sampling = Sampling { temperature: 0.9, top_k: 20, top_p: 0.95, seed: 5 };
    for config in configs() {
        // Drawing is slow on the emulator, and the same for every token.
        for (sampling, max_new_tokens) in [(None, 12), (Some(sampling.clone()), 3)] {
            let options = GenerateOptions { max_new_tokens, stop: vec![3], sampling };
            let expected = generate(&on_cpu::<f32>(&config, 6), &PROMPTS, &options, |_| ()).unwrap();
            let device = device();
            let model = on_device(&device, &config, 6, DType::F32);
            assert_eq!(generate(&model, &PROMPTS, &options, |_| ()).unwrap(), expected);
        }
    }
}
