//! The jobs that are billed, and measured where there is a GPU: steps and tokens of the 270M.

#![allow(dead_code)] // as in `bill`

use engine::autograd::Recompute;
use engine::batch::Example;
use engine::batch::tree::TokenTree;
use engine::cuda::BLOCKS;
use engine::device::{DType, Device, Purpose, Tensor};
use engine::error::Result;
use engine::generate::Decoder;
use engine::model::gemma3::Gemma3;
use engine::model::gemma3::config::Gemma3Config;
use engine::model::gemma3::table::{parameter_count, parameter_specs};
use engine::ops::adamw::AdamW;
use engine::train::step::Step;

use super::bill::{self, Attention, Bill};

/// A job and what it takes of a device.
pub struct Billed {
    pub name: &'static str,
    pub bill: Bill,
    /// The most bytes that tensors held at once.
    pub peak_bytes: usize,
}

/// A job: what it is called, and how it runs so many times when all is warm; `begin` is called before that. Gives the most bytes that
/// tensors held.
pub struct Job {
    pub name: &'static str,
    pub run: fn(&Device, On, usize, &dyn Fn()) -> Result<usize>,
}

/// What a job runs on.
#[derive(Clone, Copy, PartialEq)]
pub enum On {
    /// A device that counts: without weights, and with graphs.
    Paper,
    /// One that computes: every kernel is queued by itself.
    Chip,
}

/// The tutorial's step, a large one, the same with gradient checkpointing, and a decoded token.
pub const ALL: [Job; 4] = [
    Job {
        name: "a step of the tutorial: 4 rows, 270 tokens of which 213 are scored",
        run: |device, on, times, begin| step(device, on, tutorial(), None, times, begin),
    },
    Job {
        name: "a step of 32,768 tokens that share nothing, all scored",
        run: |device, on, times, begin| step(device, on, large(), None, times, begin),
    },
    Job {
        name: "the same with gradient checkpointing",
        run: |device, on, times, begin| step(device, on, large(), Some(Recompute::Full), times, begin),
    },
    Job { name: "a decoded token of 20 prompts", run: decoded_token },
];

/// All jobs on the device that counts.
pub fn all() -> Result<[Billed; 4]> {
    let [tutorial, large, checkpointed, token] = ALL.map(|Job { name, run }| {
        let (device, bill) = bill::device(attention()?, BLOCKS * bill::H100.multiprocessors as usize);
        let peak_bytes = run(&device, On::Paper, 1, &|| _ = bill.take())?;
        Ok(Billed { name, bill: bill.take(), peak_bytes })
    });
    Ok([tutorial?, large?, checkpointed?, token?])
}

/// FunctionGemma's shape.
fn config() -> Result<Gemma3Config> {
    Gemma3Config::from_value(serde_json::from_str(include_str!("../compare/gemma3-270m.json")).expect("a JSON file"))
}

fn attention() -> Result<Attention> {
    let Gemma3Config { num_attention_heads: heads, head_dim, .. } = config()?;
    Ok(Attention { heads, head_dim })
}

/// FunctionGemma, f32.
fn model(device: &Device, on: On) -> Result<Gemma3> {
    let config = config()?;
    let len = parameter_count(&parameter_specs(&config));
    let mut weights = Tensor::empty(&device.of(Purpose::Weights), &[len], DType::F32)?;
    if on == On::Chip {
        // A Weyl sequence in -0.05..0.05.
        let weight = |i: u32| i.wrapping_mul(2_654_435_769) as i32 as f32 / 2f32.powi(31) * 0.05;
        weights.upload(&(0..len as u32).map(weight).collect::<Vec<f32>>())?;
    }
    Gemma3::new(config, weights)
}

fn example(ids: impl Iterator<Item = usize>, scored_from: usize) -> Example {
    let ids: Vec<u32> = ids.map(|id| id as u32).collect();
    let scored = (0..ids.len()).map(|t| t >= scored_from).collect();
    Example { ids, scored, origin: String::new() }
}

fn tree(examples: &[Example]) -> TokenTree {
    TokenTree::from_examples(&examples.iter().collect::<Vec<_>>())
}

/// Four rows that share 142 tokens and go on for 32 each.
fn tutorial() -> TokenTree {
    let id = |row: usize, t: usize| if t < 142 { t } else { 1000 * (row + 1) + t };
    let rows: Vec<Example> = (0..4).map(|row| example((0..174).map(|t| id(row, t)), 54)).collect();
    tree(&rows)
}

/// 32 rows of 1024 tokens.
fn large() -> TokenTree {
    let rows: Vec<Example> =
        (0..32).map(|row| example((0..1024).map(|t| (row * 1024 + t) * 7919 % 262_144), 0)).collect();
    tree(&rows)
}

fn step(
    device: &Device,
    on: On,
    tree: TokenTree,
    recompute: Option<Recompute>,
    times: usize,
    begin: &dyn Fn(),
) -> Result<usize> {
    let mut model = model(device, on)?.computed_in(DType::Bf16)?;
    let mut step = Step::new(&model, 1.0, on == On::Paper)?.recomputing(recompute);
    let hyper = |step| AdamW { learning_rate: 1e-5, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, step };
    for number in 1..=2 + times as u64 {
        if number == 3 {
            begin();
        }
        step.run(&mut model, vec![tree.clone()], &hyper(number))?;
    }
    Ok(device.peak_bytes())
}

/// One of many tokens, of 20 prompts that share 142 tokens and have 18 of their own.
fn decoded_token(device: &Device, on: On, times: usize, begin: &dyn Fn()) -> Result<usize> {
    let model = model(device, on)?.frozen_in(DType::Bf16)?;
    let prompts: Vec<Vec<u32>> =
        (0..20).map(|row| (0..160).map(|t| if t < 142 { t } else { 1000 * (row + 1) + t }).collect()).collect();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let mut decoder = Decoder::new(&model, 142 + 20 * (18 + 128), &[], None)?;
    if on == On::Chip {
        decoder = decoder.without_graphs();
    }
    decoder.admit(&prompts, 128)?;
    for _ in 0..4 {
        decoder.step()?;
    }
    begin();
    (0..times).try_for_each(|_| decoder.step().map(drop))?;
    Ok(device.peak_bytes())
}
