//! A whole training step (forward, loss, backward, clip, AdamW) in tokens per second: of a small random model, and of the
//! checkpoint in the folder that the environment variable `ENGINE_BENCH_MODEL` names, if it is set.
//!
//! The batch is the tutorial's; on a GPU also 32,768 tokens that share nothing. On the CPU in f32 and bf16; with `ENGINE_BENCH_DEVICE=cuda` on the GPU in bf16, from captured graphs after the second step.
//!
//! Tokens are those of the rows, as the training log counts them: shared prefixes count once per row.

#[path = "shared/models.rs"]
mod models;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::batch::Example;
use engine::batch::tree::TokenTree;
use engine::error::Kind;
use engine::model::gemma3::Gemma3;
use engine::ops::adamw::AdamW;
use engine::train::step::Step;

/// The tutorial's batch: four rows that share a prompt of 142 tokens and go on for 18 each, all of them scored.
fn tree(vocab_size: usize) -> TokenTree {
    let id = |r: u32, t: u32| (if t < 142 { t } else { 1000 * (r + 1) + t }) % vocab_size as u32;
    let row = |r: u32| (0..160).map(|t| id(r, t)).collect::<Vec<u32>>();
    let example = |r| Example { ids: row(r), scored: vec![true; 160], origin: String::new() };
    let examples: Vec<Example> = (0..4).map(example).collect();
    TokenTree::from_examples(&examples.iter().collect::<Vec<_>>())
}

/// 32 rows of 1024 tokens that share nothing, all of them scored: what fills a GPU.
fn large_tree(vocab_size: usize) -> TokenTree {
    let id = |r: u32, t: u32| (r * 1024 + t).wrapping_mul(2_654_435_761) % vocab_size as u32;
    let example =
        |r| Example { ids: (0..1024).map(|t| id(r, t)).collect(), scored: vec![true; 1024], origin: String::new() };
    let examples: Vec<Example> = (0..32).map(example).collect();
    TokenTree::from_examples(&examples.iter().collect::<Vec<_>>())
}

fn bench(c: &mut Criterion, name: &str, mut model: Gemma3) {
    let vocab_size = model.config.vocab_size;
    bench_tree(c, name, &mut model, &tree(vocab_size));
    if models::is_cuda() {
        bench_tree(c, &format!("{name}/32k"), &mut model, &large_tree(vocab_size));
    }
}

fn bench_tree(c: &mut Criterion, name: &str, model: &mut Gemma3, tree: &TokenTree) {
    let mut step = Step::new(model, 1.0, true).unwrap();
    // A rate too small to lead anywhere: every step does the same work.
    let hyper = AdamW { learning_rate: 1e-9, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0, step: 1 };
    // 32k tokens do not fit every card.
    match step.run(model, vec![tree.clone()], &hyper) {
        Err(error) if error.kind() == Kind::OutOfMemory => {
            return eprintln!("step/{name} is left out: {}", error.report());
        }
        first => _ = first.unwrap(),
    }
    let mut group = c.benchmark_group("step");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .throughput(Throughput::Elements(tree.num_tokens as u64));
    group.bench_function(name, |b| b.iter(|| step.run(model, vec![tree.clone()], &hyper).unwrap()));
}

fn steps(c: &mut Criterion) {
    models::for_each(|name, model| bench(c, name, model));
}

criterion_group!(benches, steps);
criterion_main!(benches);
