//! The table of launchers as the host implements it.

use super::launcher::{allow_programmatic_launch, last_error};
use super::{adamw, add, attention, cast, clip, cross_entropy, decode, dropout, embedding, geglu, halves};
use super::{linear, rmsnorm, rope, round_blocks, sample, sum_parts, weight_gradients};
use crate::device::bindings::engine_kernels;
use crate::device::kernels::Kernels;

/// The launchers in Rust.
pub(super) fn kernels() -> Kernels {
    Kernels { table: &TABLE.0 }
}

struct Table(engine_kernels);
// SAFETY: function pointers and a constant string: nothing that a thread could change.
unsafe impl Sync for Table {}

static TABLE: Table = Table(engine_kernels {
    device: c"cpu".as_ptr(),
    last_error: Some(last_error),
    allow_programmatic_launch: Some(allow_programmatic_launch),
    rmsnorm_forward: Some(rmsnorm::rmsnorm_forward),
    rmsnorm_backward: Some(rmsnorm::rmsnorm_backward),
    rmsnorm_pair_forward: Some(rmsnorm::rmsnorm_pair_forward),
    rmsnorm_pair_backward: Some(rmsnorm::rmsnorm_pair_backward),
    sum_parts: Some(sum_parts::sum_parts),
    weight_gradients: Some(weight_gradients::weight_gradients),
    rope_forward: Some(rope::rope_forward),
    rope_backward: Some(rope::rope_backward),
    attention_forward: Some(attention::attention_forward),
    attention_backward: Some(attention::attention_backward),
    attention_decode: Some(decode::attention_decode),
    rope_attention_decode: Some(decode::rope_attention_decode),
    geglu_forward: Some(geglu::geglu_forward),
    geglu_backward: Some(geglu::geglu_backward),
    linear_few_rows: Some(linear::linear_few_rows),
    linear_geglu_forward: Some(linear::linear_geglu_forward),
    linear_geglu_backward: Some(linear::linear_geglu_backward),
    embedding_forward: Some(embedding::embedding_forward),
    embedding_backward: Some(embedding::embedding_backward),
    clip_factor: Some(clip::clip_factor),
    adamw: Some(adamw::adamw),
    cross_entropy: Some(cross_entropy::cross_entropy),
    sample: Some(sample::sample),
    cast: Some(cast::cast),
    split_weights: Some(halves::split_weights),
    join_weights: Some(halves::join_weights),
    round_blocks: Some(round_blocks::round_blocks),
    dropout: Some(dropout::dropout),
    add: Some(add::add),
});
