//! The jobs that are billed: steps and tokens of the 270M on a device that runs nothing.

#![allow(dead_code)] // as in `bill`

use std::cell::RefCell;
use std::rc::Rc;

use engine::batch::Example;
use engine::batch::tree::TokenTree;
use engine::cuda::BLOCKS;
use engine::device::{DType, Purpose, Tensor};
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

/// The tutorial's step, a large one, the same with gradient checkpointing, and a decoded token.
pub fn all() -> Result<[Billed; 4]> {
    let tutorial = step("a step of the tutorial: 4 rows, 270 tokens of which 213 are scored", tutorial(), false)?;
    let whole = step("a step of 32,768 tokens that share nothing, all scored", large(), false)?;
    let checkpointed = step("the same with gradient checkpointing", large(), true)?;
    Ok([tutorial, whole, checkpointed, decoded_token()?])
}

/// FunctionGemma in bf16, without its weights.
fn model() -> Result<(Gemma3, Rc<RefCell<Bill>>)> {
    let config = serde_json::from_str(include_str!("../compare/gemma3-270m.json")).expect("a JSON file");
    let config = Gemma3Config::from_value(config)?;
    let attention = Attention { heads: config.num_attention_heads, head_dim: config.head_dim };
    let (device, bill) = bill::device(attention, BLOCKS * bill::H100.multiprocessors as usize);
    let weights = parameter_count(&parameter_specs(&config));
    let weights = Tensor::empty(&device.of(Purpose::Weights), &[weights], DType::F32)?;
    Ok((Gemma3::new(config, weights)?.computed_in(DType::Bf16)?, bill))
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

/// One step when all is warm.
fn step(name: &'static str, tree: TokenTree, gradient_checkpointing: bool) -> Result<Billed> {
    let (mut model, bill) = model()?;
    let mut step = Step::new(&model, 1.0, true)?.with_gradient_checkpointing(gradient_checkpointing);
    let hyper = |step| AdamW { learning_rate: 1e-5, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, step };
    for number in 1..=2 {
        step.run(&mut model, vec![tree.clone()], &hyper(number))?;
    }
    bill.take();
    step.run(&mut model, vec![tree], &hyper(3))?;
    Ok(Billed { name, bill: bill.take(), peak_bytes: model.device().peak_bytes() })
}

/// One of many tokens, of 20 prompts that share 142 tokens and have 18 of their own.
fn decoded_token() -> Result<Billed> {
    let (model, bill) = model()?;
    let prompts: Vec<Vec<u32>> =
        (0..20).map(|row| (0..160).map(|t| if t < 142 { t } else { 1000 * (row + 1) + t }).collect()).collect();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let mut decoder = Decoder::new(&model, 142 + 20 * (18 + 128), &[1], None)?;
    decoder.admit(&prompts, 128)?;
    for _ in 0..4 {
        decoder.step()?;
    }
    bill.take();
    decoder.step()?;
    Ok(Billed { name: "a decoded token of 20 prompts", bill: bill.take(), peak_bytes: model.device().peak_bytes() })
}
