//! Gemma 3: the one forward that training, evaluation loss and generation share.
//!
//! ```text
//! h = sqrt(D) embed[id]
//! h += post_attention_layernorm(o_proj(attention(rope(qk_norm(qkv(input_layernorm(h)))))))     per layer
//! h += post_feedforward_layernorm(down(geglu(gate_up(pre_feedforward_layernorm(h)))))
//! hidden = norm(h);  logits = hidden embed^T
//! ```

use std::cell::RefCell;
use std::rc::Rc;

use crate::autograd::{Param, Params};
use crate::autograd::{Tape, Var};
use crate::batch::inputs::{Inputs, Slot};
use crate::batch::mask::AttentionMask;
use crate::batch::tree::TokenTree;
use crate::device::{DType, Device, Purpose, Tensor};
use crate::dispatch;
use crate::error::Result;
use crate::model::gemma3::config::{Gemma3Config, LayerType};
use crate::model::gemma3::table::parameter_specs;
use crate::ops::attention::attention;
use crate::ops::embedding::{TokenIds, device::gather, embedding};
use crate::ops::geglu::geglu;
use crate::ops::linear::linear;
use crate::ops::residual::residual_rmsnorm;
use crate::ops::rmsnorm::rmsnorm;
use crate::ops::rope::{CacheSlots, Heads, Rotation, RotationTable, qkv_norm_rope, qkv_norm_rope_cached};

/// Positions that the rotation tables of a device begin with; they double as batches need more.
const SHORTEST_ROTATION_TABLE: usize = 256;

/// A model: what it looks like and its weights.
pub struct Gemma3 {
    pub config: Gemma3Config,
    pub params: Params,
    device: Device,
    /// Of full attention and of sliding: long enough for every batch so far. None on the CPU.
    rotations: RefCell<Option<[RotationTable; 2]>>,
}

/// What the layers of one kind share within a batch.
struct Kind {
    rotation: Rc<Rotation>,
    mask: Rc<AttentionMask>,
}

/// A batch ready for the forward: tokens, and per kind of layer the rotation and the mask.
pub struct Batch {
    ids: TokenIds,
    slots: Vec<u32>,
    /// The slots on a device.
    sent_slots: Slot,
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
        let device = params.values.device().of(Purpose::Activations);
        Ok(Self { config, params, device, rotations: RefCell::new(None) })
    }

    /// The same model, computing in `dtype` beside the master weights.
    pub fn computed_in(self, dtype: DType) -> Result<Self> {
        Ok(Self { params: self.params.computed_in(dtype)?, ..self })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The batch of all rows of a tree, on the device.
    pub fn batch(&self, tree: &TokenTree) -> Result<Batch> {
        let inputs = Inputs::new(self.device(), false);
        let batch = self.batch_of(&inputs, tree, (&tree.ids, &tree.slots, &tree.positions), false)?;
        inputs.send()?;
        Ok(batch)
    }

    /// The batch of some tokens (id, slot and position each, slots ascending) over the slots of a tree. Its arrays are
    /// appended to `inputs`, which the caller sends. `decoding`: the tokens continue prompts, one each.
    pub fn batch_of(
        &self,
        inputs: &Rc<Inputs>,
        tree: &TokenTree,
        (ids, slots, positions): (&[u32], &[u32], &[u32]),
        decoding: bool,
    ) -> Result<Batch> {
        let c = &self.config;
        let sent_positions = inputs.push(positions, positions.len(), 0);
        let tables = self.rotation_tables(positions)?;
        let kind = |kind: usize, theta: f64, window: Option<usize>| Kind {
            rotation: Rc::new(match &tables {
                Some(tables) => tables[kind].at(sent_positions.clone()),
                None => Rotation::new(self.device(), positions, c.head_dim, theta, self.params.dtype()),
            }),
            mask: Rc::new(AttentionMask::for_device(inputs, tree, (slots, positions), window, decoding)),
        };
        Ok(Batch {
            ids: TokenIds::new(inputs, ids),
            slots: slots.to_vec(),
            sent_slots: inputs.push(slots, slots.len(), 0),
            full: kind(0, c.rope_theta, None),
            sliding: kind(1, c.rope_local_base_freq, Some(c.sliding_window)),
        })
    }

    /// Tables that know these positions; None on the CPU, where each batch makes its own rows.
    fn rotation_tables(&self, positions: &[u32]) -> Result<Option<[RotationTable; 2]>> {
        if self.device.driver().is_none() {
            return Ok(None);
        }
        let needed = positions.iter().max().map_or(1, |&p| p as usize + 1);
        let mut tables = self.rotations.borrow_mut();
        if tables.as_ref().is_none_or(|tables| tables[0].length() < needed) {
            let length = needed.next_power_of_two().max(SHORTEST_ROTATION_TABLE);
            let table = |theta: f64| RotationTable::new(&self.device, length, self.config.head_dim, theta);
            *tables = Some([table(self.config.rope_theta)?, table(self.config.rope_local_base_freq)?]);
        }
        Ok(tables.clone())
    }

    /// An empty cache for the slots of `tree`.
    pub fn kv_cache(&self, tree: &TokenTree) -> Result<KvCache> {
        let shape = [tree.end.len(), self.config.num_key_value_heads, self.config.head_dim];
        let empty = || Tensor::zeros(self.device(), &shape, self.params.dtype());
        let layers = (0..self.config.num_hidden_layers).map(|_| Ok((empty()?, empty()?)));
        Ok(KvCache { layers: layers.collect::<Result<_>>()? })
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
        let mut picked = Tensor::empty(self.device(), &[rows.len(), d], hidden.value.dtype())?;
        match self.device.driver() {
            Some(driver) => {
                let inputs = Inputs::new(self.device(), false);
                let rows = inputs.push(rows, rows.len(), 0);
                inputs.send()?;
                // SAFETY: as many rows as `picked` has, each a row of the hidden states.
                unsafe { gather(driver, &mut picked, &hidden.value, rows.address()?, 1.0)? };
            }
            None => dispatch!(picked.dtype(), T => {
                let hidden = hidden.value.as_slice::<T>();
                for (out, &row) in picked.fresh::<T>().chunks_exact_mut(d).zip(rows) {
                    out.copy_from_slice(&hidden[row as usize * d..][..d]);
                }
            }),
        }
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
        let (rotation, eps) = (&kind.rotation, c.rms_norm_eps);
        let (q, k, v) = match cache.map(|cache| cache.slots(layer, batch)) {
            Some(cache) => qkv_norm_rope_cached(tape, &qkv, norms, rotation, heads, eps, cache)?,
            None => qkv_norm_rope(tape, &qkv, norms, rotation, heads, eps)?,
        };
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
    /// Where a layer's keys and values of a batch go.
    fn slots<'a>(&'a mut self, layer: usize, batch: &'a Batch) -> CacheSlots<'a> {
        let (k, v) = &mut self.layers[layer];
        CacheSlots { k, v, slots: &batch.slots, sent: Some(&batch.sent_slots) }
    }
}
