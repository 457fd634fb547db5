//! `engine` fine-tunes FunctionGemma (Gemma 3 270M) for tool calling and scores the result.
//!
//! # Map, in reading order
//!
//! Data flows from top to bottom: `engine train` is
//! rows -> conversations -> chat template -> tokens -> token tree -> forward on the tape -> loss -> backward -> clip ->
//! AdamW -> metrics -> model folder -> score.
//!
//! | module | what it holds |
//! |---|---|
//! | [`cli`] | the command line, declared once ([`cli::args`]), and a file per command |
//! | [`data`] | rows, conversations, chat templates, tokenizer, [`data::Example`], and the batch: [`data::tree::TokenTree`] |
//! | [`model`] | [`model::config`], the parameter table ([`model::param_specs`]), the flat weights ([`model::params`]), and the one forward ([`model::gemma3`]) |
//! | [`ops`] | a file per op: formula, shapes, public function, backward, `mod cpu` |
//! | [`tape`] | the manual autograd tape: a list of named closures, run backwards |
//! | [`tensor`] | tensors over shared storage, and the pool it comes from |
//! | [`backend`] | what the CPU ops stand on: vector dispatch, row-parallel loops, matrix products; the table of CUDA kernels ([`backend::kernels`]) |
//! | [`train`] | the loop, the evaluation loss, schedule, metrics, plot, progress |
//! | [`eval`] | generation, the parser of calls, verdicts, report, tables |
//! | [`io`] | safetensors, GGUF, the hub, and the output folder that is whole or not there |
//! | [`error`] | the one error type: message, cause, hint, exit code |
//!
//! # Decisions
//!
//! **One forward.** Training, evaluation loss and generation run [`model::gemma3::Gemma3::forward`] and the same ops. A
//! tape that records nothing ([`tape::Tape::inference`]) is all the difference.
//!
//! **A batch is a token tree.** In tool calling most of every row is the same system text and tool declarations. A batch
//! is the prefix tree of its rows in depth-first order, each distinct prefix once; under causal attention that is exact.
//! The whole mask is `j <= i && i < end[j] && position[i] - position[j] < window`. There is no padding and no other batch
//! layout: rows that share nothing are the special case. For generation each prompt is followed by free slots in the same
//! layout, so that tokens decoded later fall under the same mask, and the KV cache is just the tree's slots.
//!
//! **The loss never holds the logits.** Head and cross-entropy are one op over chunks of rows; value and gradient come
//! from one pass, and only rows that have a target reach the head ([`ops::cross_entropy`]).
//!
//! **Flat parameters.** Weights, gradients and the two moments are one run of numbers each. Clipping and AdamW are one
//! pass, q, k, v and gate, up are fused matrices without a copy.
//!
//! **Storage is checked, not trusted.** A tensor is written only while nobody else holds it
//! ([`tensor::Tensor::as_mut`]), so that what a closure captured cannot change under it; freed storage goes to a pool, so
//! that steps after the first allocate nothing.
//!
//! **f32, and f64 to check it.** CPU ops are generic over the number type: f32 runs, f64 is held against central
//! differences. Sums that cross blocks run in a fixed order that does not depend on the number of threads.
//!
//! **The config file is flags.** A TOML file's keys are turned into arguments in front of the command line's, so there is
//! one declaration of every option and a flag wins over the file by being later.
//!
//! # Units
//! Losses and entropies are in nats, lengths in tokens, durations in seconds, memory in bytes.

pub mod backend;
pub mod cli;
pub mod data;
pub mod error;
pub mod eval;
pub mod io;
pub mod model;
pub mod ops;
pub mod tape;
pub mod tensor;
pub mod train;
