//! Every op forward and backward at FunctionGemma's shapes, on a batch of the tutorial's size (N = 270 tokens of 4 rows).
//!
//! Throughput is in bytes for ops that memory bounds, and in FLOP ("elements" in criterion's words) for products.
//! `cargo bench --bench ops -- attention` runs those whose name holds `attention`.

use std::hint::black_box;
use std::rc::Rc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine::autograd::ParamSpec;
use engine::autograd::{Param, Params};
use engine::autograd::{Tape, Var};
use engine::batch::Example;
use engine::batch::mask::AttentionMask;
use engine::batch::tree::TokenTree;
use engine::device::{DType, Device, Tensor};
use engine::error::Result;
use engine::ops::adamw::{AdamW, AdamWState, adamw};
use engine::ops::attention::attention;
use engine::ops::clip::global_norm;
use engine::ops::cross_entropy::linear_cross_entropy;
use engine::ops::embedding::{TokenIds, embedding};
use engine::ops::geglu::geglu;
use engine::ops::linear::linear;
use engine::ops::residual::residual_rmsnorm;
use engine::ops::rmsnorm::rmsnorm;
use engine::ops::rope::{Heads, Rotation, qkv_norm_rope};

const V: usize = 262_144;
const D: usize = 640;
const F: usize = 2048;
const HEADS: Heads = Heads { query: 4, kv: 1, dim: 256 };
const QKV: usize = (HEADS.query + 2 * HEADS.kv) * HEADS.dim;
const WINDOW: usize = 512;
const EPS: f64 = 1e-6;

/// Four rows that share a prompt of 142 tokens and go on for 32 each, which are scored.
fn tree() -> TokenTree {
    let row = |r: u32| (0..174).map(|t| if t < 142 { t } else { 1000 * (r + 1) + t }).collect::<Vec<u32>>();
    let example = |r| Example { ids: row(r), scored: (0..174).map(|t| t >= 142).collect(), origin: String::new() };
    let examples: Vec<Example> = (0..4).map(example).collect();
    TokenTree::from_examples(&examples.iter().collect::<Vec<_>>())
}

/// Numbers in -1..1 that look random: a Weyl sequence.
fn values(n: usize) -> Vec<f32> {
    (0..n as u32).map(|i| i.wrapping_mul(2_654_435_769) as i32 as f32 / 2f32.powi(31)).collect()
}

fn tensor(device: &Device, shape: &[usize]) -> Tensor {
    Tensor::from_slice(device, shape, &values(shape.iter().product()))
}

/// Puts an op on a tape.
type Run<'a> = dyn Fn(&mut Tape, &[Var], &[Param]) -> Result<Vec<Var>> + 'a;

/// An op that goes on a tape: what it reads, and how.
struct Op<'a> {
    name: &'a str,
    inputs: Vec<Tensor>,
    params: &'a Params,
    /// Work of the forward and of the backward.
    work: [Throughput; 2],
    run: &'a Run<'a>,
}

fn params(device: &Device, shapes: &[&[usize]]) -> Params {
    let spec = |(i, shape): (usize, &&[usize])| ParamSpec { name: i.to_string(), shape: shape.to_vec(), decay: true };
    let specs: Vec<ParamSpec> = shapes.iter().enumerate().map(spec).collect();
    Params::new(&specs, tensor(device, &[specs.iter().map(ParamSpec::len).sum()])).unwrap()
}

impl Op<'_> {
    fn place(&self, tape: &mut Tape) -> Vec<Var> {
        let vars: Vec<Var> = self.inputs.iter().map(|x| tape.var(x.clone())).collect();
        let params: Vec<Param> = self.params.spans().iter().map(|s| self.params.get(&s.name)).collect();
        (self.run)(tape, &vars, &params).unwrap()
    }

    fn bench(&self, c: &mut Criterion, device: &Device) {
        let mut group = c.benchmark_group(self.name);
        group.throughput(self.work[0].clone());
        group.bench_function(BenchmarkId::from_parameter("forward"), |b| {
            b.iter(|| black_box(self.place(&mut Tape::inference(device))));
        });
        let mut gradients = self.params.gradients().unwrap();
        group.throughput(self.work[1].clone());
        group.bench_function(BenchmarkId::from_parameter("backward"), |b| {
            b.iter_custom(|iterations| {
                let mut total = Duration::ZERO;
                for _ in 0..iterations {
                    let mut tape = Tape::recording(device, &mut gradients);
                    for y in self.place(&mut tape) {
                        let dy = tensor(device, y.value.shape());
                        tape.push("seed", move |ctx| ctx.give(&y, dy));
                    }
                    let started = Instant::now();
                    tape.backward().unwrap();
                    total += started.elapsed();
                }
                total
            });
        });
    }
}

fn bytes(floats: usize) -> Throughput {
    Throughput::Bytes(4 * floats as u64)
}

fn flop(n: usize) -> Throughput {
    Throughput::Elements(n as u64)
}

fn norms(c: &mut Criterion, device: &Device, n: usize) {
    let weight = params(device, &[&[D]]);
    let x = tensor(device, &[n, D]);
    let op = Op {
        name: "rmsnorm",
        inputs: vec![x.clone()],
        params: &weight,
        work: [bytes(2 * n * D), bytes(3 * n * D)],
        run: &|tape, x, w| Ok(vec![rmsnorm(tape, &x[0], &w[0], EPS)?]),
    };
    op.bench(c, device);
    let op = Op {
        name: "residual_rmsnorm",
        inputs: vec![x.clone(), x],
        params: &weight,
        work: [bytes(3 * n * D), bytes(3 * n * D)],
        run: &|tape, x, w| Ok(vec![residual_rmsnorm(tape, &x[0], &x[1], &w[0], EPS)?]),
    };
    op.bench(c, device);
}

fn products(c: &mut Criterion, device: &Device, n: usize) {
    let shapes = [("qkv", QKV, D), ("o", D, HEADS.query * HEADS.dim), ("gate_up", 2 * F, D), ("down", D, F)];
    for (name, o, i) in shapes {
        let op = Op {
            name: &format!("linear_{name}"),
            inputs: vec![tensor(device, &[n, i])],
            params: &params(device, &[&[o, i]]),
            work: [flop(2 * n * o * i), flop(4 * n * o * i)],
            run: &|tape, x, w| Ok(vec![linear(tape, &x[0], &w[0])?]),
        };
        op.bench(c, device);
    }
}

fn elementwise(c: &mut Criterion, device: &Device, tree: &TokenTree) {
    let n = tree.len();
    let rotation = Rc::new(Rotation::new(device, &tree.positions, HEADS.dim, 1e4, DType::F32));
    let op = Op {
        name: "qkv_norm_rope",
        inputs: vec![tensor(device, &[n, QKV])],
        params: &params(device, &[&[HEADS.dim], &[HEADS.dim]]),
        work: [bytes(2 * n * QKV), bytes(3 * n * QKV)],
        run: &|tape, x, w| {
            let (q, k, v) = qkv_norm_rope(tape, &x[0], (&w[0], &w[1]), &rotation, HEADS, EPS)?;
            Ok(vec![q, k, v])
        },
    };
    op.bench(c, device);
    let op = Op {
        name: "geglu",
        inputs: vec![tensor(device, &[n, 2 * F])],
        params: &params(device, &[]),
        work: [bytes(3 * n * F), bytes(5 * n * F)],
        run: &|tape, x, _| Ok(vec![geglu(tape, &x[0])?]),
    };
    op.bench(c, device);
}

fn attentions(c: &mut Criterion, device: &Device, tree: &TokenTree) {
    let n = tree.len();
    let mask = Rc::new(AttentionMask::new(tree, Some(WINDOW)));
    let visible = (0..n * n).filter(|pair| mask.sees(pair / n, pair % n)).count();
    let op = Op {
        name: "attention",
        inputs: vec![
            tensor(device, &[n, HEADS.query, HEADS.dim]),
            tensor(device, &[n, HEADS.kv, HEADS.dim]),
            tensor(device, &[n, HEADS.kv, HEADS.dim]),
        ],
        params: &params(device, &[]),
        // Of visible pairs only: what a tile computes beyond them counts against it.
        work: [4, 14].map(|per_element| flop(per_element * visible * HEADS.query * HEADS.dim)),
        run: &|tape, x, _| Ok(vec![attention(tape, (&x[0], &x[1], &x[2]), &mask, 1.0 / 16.0)?]),
    };
    op.bench(c, device);
}

fn vocabulary(c: &mut Criterion, device: &Device, tree: &TokenTree) {
    let n = tree.len();
    let table = params(device, &[&[V, D]]);
    let ids = TokenIds::from(&tree.ids[..]);
    let op = Op {
        name: "embedding",
        inputs: vec![],
        params: &table,
        work: [bytes(2 * n * D), bytes(3 * n * D)],
        run: &|tape, _, w| Ok(vec![embedding(tape, &ids, &w[0], (D as f64).sqrt())?]),
    };
    op.bench(c, device);

    let rows = tree.targets.chunk_by(|a, b| a.row == b.row).count();
    let (hidden, weight) = (tensor(device, &[n, D]), table.get("0"));
    let mut group = c.benchmark_group("cross_entropy");
    group.sample_size(10).warm_up_time(Duration::from_millis(1));
    group.throughput(flop(2 * rows * V * D)).bench_function("value", |b| {
        b.iter(|| {
            let mut tape = Tape::inference(device);
            let hidden = tape.var(hidden.clone());
            linear_cross_entropy(&mut tape, &hidden, &weight, &tree.targets, 1.0).unwrap()
        });
    });
    let mut gradients = table.gradients().unwrap();
    group.throughput(flop(6 * rows * V * D)).bench_function("value_and_gradient", |b| {
        b.iter(|| {
            let mut tape = Tape::recording(device, &mut gradients);
            let hidden = tape.var(hidden.clone());
            linear_cross_entropy(&mut tape, &hidden, &weight, &tree.targets, 1.0).unwrap();
            tape.backward().unwrap();
        });
    });
}

fn optimizer(c: &mut Criterion, device: &Device) {
    const LENGTH: usize = 1 << 24;
    let mut table = params(device, &[&[LENGTH / D, D]]);
    let n = table.len();
    let (mut gradients, mut m, mut v) =
        (tensor(device, &[n]), table.zeros(device).unwrap(), table.zeros(device).unwrap());
    let mut group = c.benchmark_group("optimizer");
    group.throughput(bytes(n)).bench_function("global_norm", |b| b.iter(|| global_norm(&gradients)));
    group.throughput(bytes(8 * n)).bench_function("adamw", |b| {
        let hyper =
            AdamW { learning_rate: 1e-5, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, step: 10, clip: 0.5 };
        b.iter(|| {
            let (spans, params) = table.parts();
            adamw(AdamWState { params, gradients: &mut gradients, m: &mut m, v: &mut v }, spans, &hyper).unwrap();
        });
    });
}

fn ops(c: &mut Criterion) {
    let (device, tree) = (Device::cpu(), tree());
    norms(c, &device, tree.len());
    products(c, &device, tree.len());
    elementwise(c, &device, &tree);
    attentions(c, &device, &tree);
    optimizer(c, &device);
    vocabulary(c, &device, &tree);
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(20);
    targets = ops
}
criterion_main!(benches);
