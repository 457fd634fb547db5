//! Generation: sequences decoded together over a key-value cache ([`decoder`]), and which token comes next ([`sampling`]).
//!
//! Prompts form a token tree in which each is followed by free slots; a decoded token takes the next free slot of its
//! prompt, so that the mask of training serves here too. See [`crate::batch::tree`] and [`slots`].

use crate::bail;
use crate::batch::tree::TokenTree;
use crate::error::{Error, Result};
use crate::model::gemma3::Gemma3;

mod cached_model;
pub mod decoder;
pub mod sampling;
pub mod slots;

pub use decoder::{Chosen, Decoder, Sequence};
pub use sampling::Sampling;

/// The most slots (prompt and new tokens) that are decoded together.
const MAX_SLOTS: usize = 1 << 15;
/// The longest sequence that a config may allow.
const MAX_POSITIONS: usize = 1 << 20;

/// How the next token is chosen and when to stop.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    pub max_new_tokens: usize,
    /// A generated token of these ends the output (and is its last token).
    pub stop: Vec<u32>,
    /// None: greedy, the first of equal logits.
    pub sampling: Option<Sampling>,
    /// Capture the decoding of tokens into graphs and replay it, where the device can.
    pub use_graphs: bool,
}

impl GenerateOptions {
    /// Whether this output has ended.
    pub fn has_ended(&self, output: &[u32]) -> bool {
        output.len() >= self.max_new_tokens || self.has_stopped(output)
    }

    /// Whether this output ends where no more tokens were allowed, and not by itself.
    pub fn was_cut(&self, output: &[u32]) -> bool {
        output.len() >= self.max_new_tokens && !self.has_stopped(output)
    }

    fn has_stopped(&self, output: &[u32]) -> bool {
        output.last().is_some_and(|last| self.stop.contains(last))
    }
}

/// Generates from every prompt. Returns the new tokens of each, the stopping one included.
///
/// `progress` is called with the number of outputs that have ended, after every token; its error ends the generation. An empty
/// prompt is an error.
pub fn generate(
    model: &Gemma3,
    prompts: &[&[u32]],
    options: &GenerateOptions,
    progress: impl FnMut(usize) -> Result<()>,
) -> Result<Vec<Vec<u32>>> {
    let mut outputs = Vec::new();
    generate_into(&mut outputs, model, prompts, options, progress)?;
    Ok(outputs)
}

/// [`generate`] that leaves what it has in `outputs` when it ends by an error.
pub fn generate_into(
    outputs: &mut Vec<Vec<u32>>,
    model: &Gemma3,
    prompts: &[&[u32]],
    options: &GenerateOptions,
    mut progress: impl FnMut(usize) -> Result<()>,
) -> Result<()> {
    if let Some(i) = prompts.iter().position(|p| p.is_empty()) {
        bail!("prompt {} is empty", i + 1);
    }
    *outputs = vec![Vec::new(); prompts.len()];
    if options.max_new_tokens == 0 {
        return Ok(());
    }
    let room = options.max_new_tokens;
    let longest = longest(prompts, room, model.config.max_position_embeddings)?;
    let groups = prompts.chunks((MAX_SLOTS / longest).max(1));
    let slots = groups.clone().map(|group| TokenTree::with_reserve(group, room).end.len()).max().unwrap_or(0);
    let mut decoder = Decoder::new(model, slots, &options.stop, options.sampling.clone())?;
    if !options.use_graphs {
        decoder = decoder.without_graphs();
    }
    let mut ended = 0;
    for group in groups {
        let end_of_group = ended + group.len();
        decoder.admit(group, room)?;
        while ended < end_of_group {
            for Chosen { sequence, token, stopped } in decoder.step()? {
                let output = &mut outputs[sequence.0];
                output.push(token);
                if stopped || output.len() == options.max_new_tokens {
                    decoder.evict(sequence)?;
                    ended += 1;
                }
            }
            progress(ended)?;
        }
    }
    Ok(())
}

/// The longest sequence that `room` new tokens can make. Models work a little beyond the `positions` that they were made for
/// when these are few, so that they are only held to what is decoded together anyway.
pub(crate) fn longest(prompts: &[&[u32]], room: usize, positions: usize) -> Result<usize> {
    let prompt = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
    let most = positions.clamp(MAX_SLOTS, MAX_POSITIONS);
    match prompt.checked_add(room) {
        Some(longest) if longest <= most => Ok(longest),
        _ => Err(Error::usage(format!(
            "{room} new tokens after a prompt of {prompt} are more than the {most} positions there are"
        ))
        .hint("lower `--max-new-tokens`")),
    }
}
