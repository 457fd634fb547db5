//! Greedy answers to 20 prompts decoded together, in new tokens per second, the reading of the prompts included: of a small random
//! model, and of the checkpoint in the folder that the environment variable `ENGINE_BENCH_MODEL` names, if it is set.
//!
//! On the CPU in f32 and bf16; with `ENGINE_BENCH_DEVICE=cuda` on the GPU in bf16.

#[path = "shared/models.rs"]
mod models;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::generate::{GenerateOptions, generate};
use engine::model::gemma3::Gemma3;

const PROMPTS: u32 = 20;
const NEW_TOKENS: usize = 32;

/// Prompts as the tutorial's are: 142 tokens of system text and declarations that all share, and 18 of their own.
fn prompts(vocab_size: usize) -> Vec<Vec<u32>> {
    let id = |r: u32, t: u32| (if t < 142 { t } else { 1000 * (r + 1) + t }) % vocab_size as u32;
    (0..PROMPTS).map(|r| (0..160).map(|t| id(r, t)).collect()).collect()
}

fn bench(c: &mut Criterion, name: &str, model: &Gemma3) {
    let prompts = prompts(model.config.vocab_size);
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    // Nothing ends an answer early: every run does the same work.
    let options = GenerateOptions { max_new_tokens: NEW_TOKENS, stop: Vec::new(), sampling: None, use_graphs: true };
    let mut group = c.benchmark_group("decode");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .throughput(Throughput::Elements(u64::from(PROMPTS) * NEW_TOKENS as u64));
    group.bench_function(name, |b| b.iter(|| generate(model, &prompts, &options, |_| Ok(())).unwrap()));
}

fn decode(c: &mut Criterion) {
    models::for_each(|name, model| bench(c, name, &model));
}

criterion_group!(benches, decode);
criterion_main!(benches);
