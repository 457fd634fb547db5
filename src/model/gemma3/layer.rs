//! One layer: where its parameters are, and the layer as it runs over one batch.

use std::rc::Rc;

use super::config::LayerType;
use super::table::PRODUCTS;
use crate::autograd::{Param, ParamHandle, Params, Tape, Var};
use crate::batch::mask::AttentionMask;
use crate::error::Result;
use crate::ops::attention::attention;
use crate::ops::decode::decode_attention;
use crate::ops::geglu::geglu;
use crate::ops::linear::{linear, opening_linear};
use crate::ops::lora::{Update, lora_linear};
use crate::ops::mlp::opening_mlp;
use crate::ops::residual::NormPair;
use crate::ops::rope::{CacheSlots, NormRope, qkv_norm_rope, qkv_norm_rope_cached};
use crate::ops::stream::Stream;

/// Where the parameters of one layer are.
pub(super) struct LayerHandles {
    pub kind: LayerType,
    pub input_layernorm: ParamHandle,
    /// q_proj, k_proj and v_proj, on top of each other
    pub qkv_proj: ParamHandle,
    pub q_norm: ParamHandle,
    pub k_norm: ParamHandle,
    pub o_proj: ParamHandle,
    pub post_attention_layernorm: ParamHandle,
    pub pre_feedforward_layernorm: ParamHandle,
    /// gate_proj and up_proj, on top of each other
    pub gate_up_proj: ParamHandle,
    pub down_proj: ParamHandle,
    pub post_feedforward_layernorm: ParamHandle,
}

impl LayerHandles {
    pub fn new(params: &Params, layer: usize, kind: LayerType) -> Self {
        let name = |name: &str| format!("model.layers.{layer}.{name}.weight");
        let one = |of: &str| params.handle(&name(of));
        let [qkv_proj, o_proj, gate_up_proj, down_proj] = PRODUCTS.map(|modules| {
            let names: Vec<String> = modules.iter().map(|of| name(of)).collect();
            params.fused_handle(&names.iter().map(String::as_str).collect::<Vec<_>>())
        });
        Self {
            kind,
            input_layernorm: one("input_layernorm"),
            qkv_proj,
            q_norm: one("self_attn.q_norm"),
            k_norm: one("self_attn.k_norm"),
            o_proj,
            post_attention_layernorm: one("post_attention_layernorm"),
            pre_feedforward_layernorm: one("pre_feedforward_layernorm"),
            gate_up_proj,
            down_proj,
            post_feedforward_layernorm: one("post_feedforward_layernorm"),
        }
    }
}

/// A weight, with what an adapter adds to it.
pub(super) struct Projection {
    pub weight: Param,
    pub update: Option<Update>,
}

impl Projection {
    /// The norm of the stream times the transpose of the weight.
    fn opening(&self, tape: &mut Tape, stream: &mut Stream) -> Result<Var> {
        match &self.update {
            Some(_) => {
                let [_, x] = stream.normed(tape)?;
                self.of(tape, &x)
            }
            None => opening_linear(tape, stream, &self.weight),
        }
    }

    /// x times the transpose of the weight.
    fn of(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        match &self.update {
            Some(update) => lora_linear(tape, x, &self.weight, update),
            None => linear(tape, x, &self.weight),
        }
    }
}

/// A layer, with all that it reads of model and batch: a tape may keep it and run it again.
pub(super) struct Layer {
    pub qkv_proj: Projection,
    pub norm_rope: NormRope,
    pub mask: Rc<AttentionMask>,
    pub softmax_scale: f64,
    pub o_proj: Projection,
    /// post_attention_layernorm and pre_feedforward_layernorm
    pub attention_norms: NormPair,
    pub gate_up_proj: Projection,
    pub down_proj: Projection,
    /// post_feedforward_layernorm and the next layer's input_layernorm, or the last norm of all
    pub mlp_norms: NormPair,
}

impl Layer {
    /// The residual stream (N, D) through the layer, up to the norms that close it: gives what is to be added. With a cache, keys and values are
    /// stored in it and read from it.
    pub fn forward(&self, tape: &mut Tape, stream: &mut Stream, cache: Option<CacheSlots<'_>>) -> Result<Var> {
        let o = self.attention_block(tape, stream, cache)?;
        stream.close(tape, &o, &self.attention_norms)?;
        self.mlp_block(tape, stream)
    }

    /// o_proj of the attention of the normed stream.
    fn attention_block(&self, tape: &mut Tape, stream: &mut Stream, cache: Option<CacheSlots<'_>>) -> Result<Var> {
        let qkv = self.qkv_proj.opening(tape, stream)?;
        let (how, mask, scale) = (&self.norm_rope, &self.mask, self.softmax_scale);
        let o = match cache {
            Some(cache) if mask.decoding => decode_attention(tape, &qkv, how, cache, mask, scale)?,
            Some(cache) => {
                let qkv = qkv_norm_rope_cached(tape, &qkv, how, cache)?;
                attention(tape, &qkv, mask, scale)?
            }
            None => {
                let qkv = qkv_norm_rope(tape, &qkv, how)?;
                attention(tape, &qkv, mask, scale)?
            }
        };
        self.o_proj.of(tape, &o)
    }

    /// down_proj of the gated units of the normed stream.
    fn mlp_block(&self, tape: &mut Tape, stream: &mut Stream) -> Result<Var> {
        let (gate_up, down) = (&self.gate_up_proj, &self.down_proj);
        if gate_up.update.is_none() && down.update.is_none() {
            return opening_mlp(tape, stream, &gate_up.weight, &down.weight);
        }
        let x = gate_up.opening(tape, stream)?;
        let x = geglu(tape, &x)?;
        down.of(tape, &x)
    }
}
