//! Gemma 3: the one forward that training, evaluation loss and generation share.
//!
//! ```text
//! h = sqrt(D) embed[id]
//! h += post_attention_layernorm(o_proj(attention(rope(qk_norm(qkv(input_layernorm(h)))))))     per layer
//! h += post_feedforward_layernorm(down(geglu(gate_up(pre_feedforward_layernorm(h)))))
//! hidden = norm(h);  logits = hidden embed^T
//! ```

use std::rc::Rc;

use crate::data::tree::TokenTree;
use crate::dispatch;
use crate::error::Result;
use crate::model::config::{Gemma3Config, LayerType};
use crate::model::param_specs::parameter_specs;
use crate::model::params::{Param, Params};
use crate::ops::attention::attention;
use crate::ops::attention_mask::AttentionMask;
use crate::ops::embedding::embedding;
use crate::ops::geglu::geglu;
use crate::ops::linear::linear;
use crate::ops::residual::residual_rmsnorm;
use crate::ops::rmsnorm::rmsnorm;
use crate::ops::rope::{Heads, Rotation, qkv_norm_rope};
use crate::tape::{Tape, Var};
use crate::tensor::{Device, Tensor};

/// A model: what it looks like and its weights.
pub struct Gemma3 {
    pub config: Gemma3Config,
    pub params: Params,
}

/// What the layers of one kind share within a batch.
struct Kind {
    rotation: Rc<Rotation>,
    mask: Rc<AttentionMask>,
}

/// A batch ready for the forward: tokens, and per kind of layer the rotation and the mask.
pub struct Batch {
    ids: Rc<[u32]>,
    slots: Vec<u32>,
    full: Kind,
    sliding: Kind,
}

/// Keys and values of every slot of a token tree, per layer: (S, K, Dh) each.
pub struct KvCache {
    layers: Vec<(Tensor, Tensor)>,
}

impl Gemma3 {
    /// A model from its flat weights, in the order of the parameter table.
    pub fn new(config: Gemma3Config, weights: Tensor) -> Result<Self> {
        let params = Params::new(&parameter_specs(&config), weights)?;
        Ok(Self { config, params })
    }

    pub fn device(&self) -> &Device {
        self.params.values.device()
    }

    /// The batch of all rows of a tree.
    pub fn batch(&self, tree: &TokenTree) -> Batch {
        self.batch_of(tree, &tree.ids, &tree.slots, &tree.positions)
    }

    /// The batch of some tokens (id, slot and position each, slots ascending) over the slots of a tree.
    pub fn batch_of(&self, tree: &TokenTree, ids: &[u32], slots: &[u32], positions: &[u32]) -> Batch {
        let c = &self.config;
        let kind = |theta: f64, window: Option<usize>| Kind {
            rotation: Rc::new(Rotation::new(self.device(), positions, c.head_dim, theta, self.params.values.dtype())),
            mask: Rc::new(AttentionMask::of_queries(tree, slots, positions, window)),
        };
        Batch {
            ids: ids.into(),
            slots: slots.to_vec(),
            full: kind(c.rope_theta, None),
            sliding: kind(c.rope_local_base_freq, Some(c.sliding_window)),
        }
    }

    /// An empty cache for the slots of `tree`.
    pub fn kv_cache(&self, tree: &TokenTree) -> KvCache {
        let shape = [tree.end.len(), self.config.num_key_value_heads, self.config.head_dim];
        let empty = || Tensor::zeros(self.device(), &shape, self.params.values.dtype());
        KvCache { layers: (0..self.config.num_hidden_layers).map(|_| (empty(), empty())).collect() }
    }

    /// Hidden states after the final norm, (N, D). With a cache, keys and values are stored in it and read from it.
    pub fn forward(&self, tape: &mut Tape, batch: &Batch, mut cache: Option<&mut KvCache>) -> Result<Var> {
        let c = &self.config;
        let scale = (c.hidden_size as f64).sqrt();
        let mut h = embedding(tape, &batch.ids, &self.embedding(), scale)?;
        for layer in 0..c.num_hidden_layers {
            h = self.attention_block(tape, layer, &h, batch, cache.as_deref_mut())?;
            h = self.mlp_block(tape, layer, &h)?;
        }
        rmsnorm(tape, &h, &self.params.get("model.norm.weight"), c.rms_norm_eps)
    }

    /// The tied embedding and head, (V, D).
    pub fn embedding(&self) -> Param {
        self.params.get("model.embed_tokens.weight")
    }

    /// Logits (R, V) of some rows of the hidden states.
    pub fn logits(&self, tape: &mut Tape, hidden: &Var, rows: &[u32]) -> Result<Tensor> {
        let d = self.config.hidden_size;
        let mut picked = Tensor::empty(self.device(), &[rows.len(), d], hidden.value.dtype());
        dispatch!(picked.dtype(), T => {
            let hidden = hidden.value.as_slice::<T>();
            for (out, &row) in picked.fresh::<T>().chunks_exact_mut(d).zip(rows) {
                out.copy_from_slice(&hidden[row as usize * d..][..d]);
            }
        });
        let picked = tape.var(picked);
        Ok(linear(tape, &picked, &self.embedding())?.value)
    }

    fn attention_block(
        &self,
        tape: &mut Tape,
        layer: usize,
        h: &Var,
        batch: &Batch,
        cache: Option<&mut KvCache>,
    ) -> Result<Var> {
        let c = &self.config;
        let kind = match c.layer_types[layer] {
            LayerType::FullAttention => &batch.full,
            LayerType::SlidingAttention => &batch.sliding,
        };
        let weight = |name: &str| format!("model.layers.{layer}.{name}.weight");
        let get = |name: &str| self.params.get(&weight(name));
        let (q_proj, k_proj, v_proj) =
            (weight("self_attn.q_proj"), weight("self_attn.k_proj"), weight("self_attn.v_proj"));
        let heads = Heads { query: c.num_attention_heads, kv: c.num_key_value_heads, dim: c.head_dim };

        let x = rmsnorm(tape, h, &get("input_layernorm"), c.rms_norm_eps)?;
        let qkv = linear(tape, &x, &self.params.fused(&[&q_proj, &k_proj, &v_proj]))?;
        let norms = (&get("self_attn.q_norm"), &get("self_attn.k_norm"));
        let (q, mut k, mut v) = qkv_norm_rope(tape, &qkv, norms, &kind.rotation, heads, c.rms_norm_eps)?;
        if let Some(cache) = cache {
            (k, v) = cache.store(tape, layer, &batch.slots, (&k, &v))?;
        }
        let o = attention(tape, (&q, &k, &v), &kind.mask, c.query_pre_attn_scalar.powf(-0.5))?;
        let o = linear(tape, &o, &get("self_attn.o_proj"))?;
        residual_rmsnorm(tape, h, &o, &get("post_attention_layernorm"), c.rms_norm_eps)
    }

    fn mlp_block(&self, tape: &mut Tape, layer: usize, h: &Var) -> Result<Var> {
        let eps = self.config.rms_norm_eps;
        let weight = |name: &str| format!("model.layers.{layer}.{name}.weight");
        let gate_up = self.params.fused(&[&weight("mlp.gate_proj"), &weight("mlp.up_proj")]);

        let x = rmsnorm(tape, h, &self.params.get(&weight("pre_feedforward_layernorm")), eps)?;
        let x = linear(tape, &x, &gate_up)?;
        let x = geglu(tape, &x)?;
        let x = linear(tape, &x, &self.params.get(&weight("mlp.down_proj")))?;
        residual_rmsnorm(tape, h, &x, &self.params.get(&weight("post_feedforward_layernorm")), eps)
    }
}

impl KvCache {
    /// Writes new keys and values into their slots; returns those of all slots.
    fn store(&mut self, tape: &mut Tape, layer: usize, slots: &[u32], (k, v): (&Var, &Var)) -> Result<(Var, Var)> {
        let (all_k, all_v) = &mut self.layers[layer];
        let width = k.value.shape()[1] * k.value.shape()[2];
        dispatch!(k.value.dtype(), T => {
            for (all, new) in [(&mut *all_k, &k.value), (&mut *all_v, &v.value)] {
                let (all, new) = (all.as_mut::<T>()?, new.as_slice::<T>());
                for (&slot, row) in slots.iter().zip(new.chunks_exact(width)) {
                    all[slot as usize * width..][..width].copy_from_slice(row);
                }
            }
        });
        Ok((tape.var(all_k.clone()), tape.var(all_v.clone())))
    }
}
