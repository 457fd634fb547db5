//! A whole training step (forward, loss, backward, clip, AdamW) in tokens per second: of a small random model, and of the
//! checkpoint in the folder that the environment variable `ENGINE_BENCH_MODEL` names, if it is set.
//!
//! On the CPU in f32; with `ENGINE_BENCH_DEVICE=cuda` on the GPU in bf16, from captured graphs after the second step.
//!
//! Tokens are those of the rows, as the training log counts them: shared prefixes count once per row.

use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::batch::Example;
use engine::batch::tree::TokenTree;
use engine::device::{DType, Device, Purpose, Tensor};
use engine::error::Result;
use engine::model::gemma3::Gemma3;
use engine::model::gemma3::config::Gemma3Config;
use engine::model::gemma3::table::{parameter_count, parameter_specs};
use engine::ops::adamw::AdamW;
use engine::train::step::Step;
use serde_json::json;

/// The tutorial's batch: four rows that share a prompt of 142 tokens and go on for 18 each, all of them scored.
fn tree(vocab_size: usize) -> TokenTree {
    let id = |r: u32, t: u32| (if t < 142 { t } else { 1000 * (r + 1) + t }) % vocab_size as u32;
    let row = |r: u32| (0..160).map(|t| id(r, t)).collect::<Vec<u32>>();
    let example = |r| Example { ids: row(r), scored: vec![true; 160], origin: String::new() };
    let examples: Vec<Example> = (0..4).map(example).collect();
    TokenTree::from_examples(&examples.iter().collect::<Vec<_>>())
}

/// Where to run, and what to compute in.
fn device() -> Result<(Device, DType)> {
    match std::env::var("ENGINE_BENCH_DEVICE").as_deref() {
        Ok("cuda") => Ok((engine::cuda::device()?, DType::Bf16)),
        _ => Ok((engine::host::device(), DType::F32)),
    }
}

fn model(config: Gemma3Config, weights: &[f32]) -> Result<Gemma3> {
    let (device, dtype) = device()?;
    let mut values = Tensor::empty(&device.of(Purpose::Weights), &[weights.len()], DType::F32)?;
    values.upload(weights)?;
    Gemma3::new(config, values)?.computed_in(dtype)
}

/// FunctionGemma's shape at a fifth of its width, a third of its layers and a small vocabulary: 3 million parameters.
fn small() -> Result<Gemma3> {
    let config = Gemma3Config::from_value(json!({
        "model_type": "gemma3_text",
        "vocab_size": 8192,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "query_pre_attn_scalar": 64,
        "sliding_window": 64,
    }))?;
    let n = parameter_count(&parameter_specs(&config));
    // A Weyl sequence in -0.05..0.05.
    let weight = |i: u32| i.wrapping_mul(2_654_435_769) as i32 as f32 / 2f32.powi(31) * 0.05;
    let weights: Vec<f32> = (0..n as u32).map(weight).collect();
    model(config, &weights)
}

fn load(folder: &Path) -> Result<Gemma3> {
    let config = Gemma3Config::load(folder)?;
    let specs = parameter_specs(&config);
    let mut weights = vec![0.0f32; parameter_count(&specs)];
    engine::io::safetensors::read_model(folder, &specs, &mut weights)?;
    model(config, &weights)
}

fn bench(c: &mut Criterion, name: &str, mut model: Gemma3) {
    let tree = tree(model.config.vocab_size);
    let mut step = Step::new(&model, 1.0, true).unwrap();
    // A rate too small to lead anywhere: every step does the same work.
    let hyper = AdamW { learning_rate: 1e-9, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0, step: 1 };
    let mut group = c.benchmark_group("step");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .throughput(Throughput::Elements(tree.num_tokens as u64));
    group.bench_function(name, |b| b.iter(|| step.run(&mut model, vec![tree.clone()], &hyper).unwrap()));
}

fn steps(c: &mut Criterion) {
    bench(c, "small", small().unwrap());
    if let Some(folder) = std::env::var_os("ENGINE_BENCH_MODEL") {
        let model = load(Path::new(&folder)).unwrap_or_else(|error| panic!("{}", error.report()));
        bench(c, "checkpoint", model);
    }
}

criterion_group!(benches, steps);
criterion_main!(benches);
