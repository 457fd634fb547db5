//! Every op forward and backward at FunctionGemma's shapes, on a batch of the tutorial's size (N = 270 tokens of 4 rows), in
//! f32 and bf16: the `model_case` of each list of `tests/ops/lists`.
//!
//! Throughput is in bytes for ops that memory bounds, and in FLOP ("elements" in criterion's words) for products.
//! `cargo bench --bench ops -- attention` runs those whose name holds `attention`. On the CPU; with
//! `ENGINE_BENCH_DEVICE=cuda` on the GPU, where a backward's time includes waiting for it.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

#[path = "../../tests/ops/lists/mod.rs"]
mod lists;
mod measure;

mod adamw;
mod attention;
mod cast;
mod clip;
mod cross_entropy;
mod dropout;
mod embedding;
mod geglu;
mod linear;
mod mlp;
mod products;
mod residual;
mod rmsnorm;
mod rope;
mod round_blocks;
mod sample;
mod search;

fn ops(c: &mut Criterion) {
    let device = &measure::device();
    rmsnorm::bench(c, device);
    residual::bench(c, device);
    linear::bench(c, device);
    products::report();
    rope::bench(c, device);
    attention::bench(c, device);
    geglu::bench(c, device);
    mlp::bench(c, device);
    embedding::bench(c, device);
    cross_entropy::bench(c, device);
    clip::bench(c, device);
    adamw::bench(c, device);
    cast::bench(c, device);
    round_blocks::bench(c, device);
    dropout::bench(c, device);
    sample::bench(c, device);
    search::report(device);
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20);
    targets = ops
}
criterion_main!(benches);
