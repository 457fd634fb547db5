//! Generation: all prompts decoded together over a KV cache, their common prefixes computed once.
//!
//! The prompts form a token tree in which each is followed by free slots; a decoded token takes the next free slot of
//! its prompt, so that the mask of training serves here too. See [`crate::batch::tree`].

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::autograd::Tape;
use crate::bail;
use crate::batch::inputs::Inputs;
use crate::batch::tree::{Rows, TokenTree};
use crate::device::Tensor;
use crate::error::Result;
use crate::model::gemma3::{Gemma3, KvCache};
use crate::ops::sample::{Draw, sample};

/// Most slots (prompt and new tokens) that are decoded together.
const MAX_SLOTS: usize = 1 << 15;

/// How the next token is chosen and when to stop.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    pub max_new_tokens: usize,
    /// A generated token of these ends the output (and is its last token).
    pub stop: Vec<u32>,
    /// None: greedy, the first of equal logits.
    pub sampling: Option<Sampling>,
}

/// Sampling as transformers does it: temperature, then top-k, then top-p, then a draw.
#[derive(Clone, Debug)]
pub struct Sampling {
    pub temperature: f64,
    /// 0: no limit.
    pub top_k: usize,
    /// 1: no limit.
    pub top_p: f64,
    /// Each prompt draws from its own stream of this seed: an output does not depend on what it is decoded beside.
    pub seed: u64,
}

/// Generates from every prompt. Returns the new tokens of each, the stopping one included.
///
/// `progress` is called with the number of outputs that have ended. An empty prompt is an error.
pub fn generate(
    model: &Gemma3,
    prompts: &[&[u32]],
    options: &GenerateOptions,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Vec<u32>>> {
    if let Some(i) = prompts.iter().position(|p| p.is_empty()) {
        bail!("prompt {} is empty", i + 1);
    }
    let mut outputs = Vec::with_capacity(prompts.len());
    let longest = prompts.iter().map(|p| p.len()).max().unwrap_or(0) + options.max_new_tokens;
    for group in prompts.chunks((MAX_SLOTS / longest.max(1)).max(1)) {
        let done = outputs.len();
        outputs.extend(decode_group(model, group, options, done, |n| progress(done + n))?);
    }
    Ok(outputs)
}

/// A prompt that is being continued.
struct Sequence {
    prompt: usize,
    tokens: Vec<u32>,
    rng: Option<ChaCha8Rng>,
}

fn decode_group(
    model: &Gemma3,
    prompts: &[&[u32]],
    options: &GenerateOptions,
    first: usize,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Vec<u32>>> {
    let mut tree = TokenTree::with_reserve(prompts, options.max_new_tokens.max(1));
    let mut cache = model.kv_cache(&tree)?;
    let mut tape = Tape::inference(model.device());
    let hidden = model.forward(&mut tape, &model.batch(&tree)?, Some(&mut cache))?;
    let mut logits = model.logits(&mut tape, &hidden, &tree.last_rows)?;
    drop(hidden);
    let stream = |i: usize, s: &Sampling| {
        let mut rng = ChaCha8Rng::seed_from_u64(s.seed);
        rng.set_stream((first + i) as u64);
        rng
    };
    let start =
        |prompt| Sequence { prompt, tokens: Vec::new(), rng: options.sampling.as_ref().map(|s| stream(prompt, s)) };
    let mut active: Vec<Sequence> = (0..prompts.len()).map(start).collect();
    let mut outputs = vec![Vec::new(); prompts.len()];
    for step in 0..options.max_new_tokens {
        choose(&logits, &mut active, options)?;
        let ended = |s: &Sequence| s.tokens.last().is_some_and(|t| options.stop.contains(t));
        for sequence in active.extract_if(.., |s| ended(s) || step + 1 == options.max_new_tokens) {
            outputs[sequence.prompt] = sequence.tokens;
        }
        progress(prompts.len() - active.len());
        if active.is_empty() {
            break;
        }
        // Rows go in the order of their slots.
        active.sort_by_key(|s| tree.reserved[s.prompt]);
        logits = decode_step(model, &mut tree, &mut cache, prompts, &active)?;
    }
    Ok(outputs)
}

/// Logits after the last token of every active sequence.
fn decode_step(
    model: &Gemma3,
    tree: &mut TokenTree,
    cache: &mut KvCache,
    prompts: &[&[u32]],
    active: &[Sequence],
) -> Result<Tensor> {
    let (mut ids, mut slots, mut positions) = (Vec::new(), Vec::new(), Vec::new());
    for sequence in active {
        let Some((&last, before)) = sequence.tokens.split_last() else { bail!("internal: nothing to decode") };
        let position = prompts[sequence.prompt].len() + before.len();
        ids.push(last);
        positions.push(position as u32);
        slots.push(tree.fill_reserved(sequence.prompt, before.len(), position as u32));
    }
    let mut tape = Tape::inference(model.device());
    let inputs = Inputs::new(model.device(), false);
    let batch = model.batch_of(&inputs, tree, Rows { ids: &ids, slots: &slots, positions: &positions }, true)?;
    inputs.send()?;
    let hidden = model.forward(&mut tape, &batch, Some(cache))?;
    let rows: Vec<u32> = (0..ids.len() as u32).collect();
    model.logits(&mut tape, &hidden, &rows)
}

/// Appends the chosen token to each sequence; row i of the logits belongs to sequence i.
fn choose(logits: &Tensor, active: &mut [Sequence], options: &GenerateOptions) -> Result<()> {
    let uniform = |sequence: &mut Sequence| sequence.rng.as_mut().map_or(0.0, |rng| rng.random::<f64>() as f32);
    let uniforms: Vec<f32> = active.iter_mut().map(uniform).collect();
    let draw = options.sampling.as_ref().map(|s| Draw { temperature: s.temperature, top_k: s.top_k, top_p: s.top_p });
    let tokens = sample(logits, &uniforms, draw.as_ref())?;
    active.iter_mut().zip(tokens).for_each(|(sequence, token)| sequence.tokens.push(token));
    Ok(())
}
