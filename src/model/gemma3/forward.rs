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

use super::adapter::Adapter;
use super::config::{Gemma3Config, LayerType};
use super::layer::{Layer, LayerHandles, Projection};
use super::table::parameter_specs;
use crate::autograd::{BlockFormat, Param, ParamHandle, Params, Tape, Var};
use crate::batch::inputs::{DeviceArray, Inputs};
use crate::batch::mask::{AttentionMask, Placement};
use crate::batch::tree::{Rows, TokenTree};
use crate::device::{DType, Device, Purpose, Tensor};
use crate::error::Result;
use crate::ops::embedding::{Noise, RowList, TokenIds, embedding};
use crate::ops::linear::linear;
use crate::ops::residual::NormPair;
use crate::ops::rmsnorm::rmsnorm;
use crate::ops::rope::{CacheSlots, Heads, NormRope, Rotation, RotationTable};
use crate::ops::stream::Stream;

/// Positions that the rotation tables begin with; they double as batches need more.
const SHORTEST_ROTATION_TABLE: usize = 256;

/// A model: what it looks like and its weights.
pub struct Gemma3 {
    pub config: Gemma3Config,
    /// Its own parameters, which are frozen where there is an adapter.
    pub params: Params,
    adapter: Option<Adapter>,
    device: Device,
    embedding: ParamHandle,
    layers: Vec<LayerHandles>,
    norm: ParamHandle,
    /// Long enough for every batch so far.
    rotations: RefCell<Option<ByKind<RotationTable>>>,
}

/// One of something for the layers of either kind.
#[derive(Clone)]
struct ByKind<T> {
    full: T,
    sliding: T,
}

impl<T> ByKind<T> {
    fn get(&self, kind: LayerType) -> &T {
        match kind {
            LayerType::FullAttention => &self.full,
            LayerType::SlidingAttention => &self.sliding,
        }
    }
}

/// What the layers of one kind share within a batch.
struct Kind {
    rotation: Rc<Rotation>,
    mask: Rc<AttentionMask>,
}

/// A batch ready for the forward: tokens, and per kind of layer the rotation and the mask.
pub struct Batch {
    ids: TokenIds,
    slots: DeviceArray,
    kinds: ByKind<Kind>,
    /// (2): what a LoRA's dropout follows from; none where nothing is left out
    dropout_key: Option<DeviceArray>,
}

/// Keys and values of every slot of a token tree, per layer: (S, K, Dh) each.
pub struct KvCache {
    layers: Vec<(Tensor, Tensor)>,
}

impl Batch {
    /// N
    pub fn rows(&self) -> usize {
        self.ids.rows()
    }
}

impl Gemma3 {
    /// A model from its flat weights, in the order of the parameter table.
    pub fn new(config: Gemma3Config, weights: Tensor) -> Result<Self> {
        let params = Params::new(&parameter_specs(&config), weights)?;
        let device = params.device().of(Purpose::Activations);
        let layer = |(i, &kind)| LayerHandles::new(&params, i, kind);
        let layers = config.layer_types.iter().enumerate().map(layer).collect();
        let (embedding, norm) = (params.handle("model.embed_tokens.weight"), params.handle("model.norm.weight"));
        Ok(Self { config, params, adapter: None, device, embedding, layers, norm, rotations: RefCell::new(None) })
    }

    /// The same model, computing in `dtype` beside the master weights.
    pub fn computed_in(self, dtype: DType) -> Result<Self> {
        Ok(Self { params: self.params.computed_in(dtype)?, ..self })
    }

    /// The same model, computing in `dtype` with weights as a file of these formats, one for each parameter, would give them back.
    pub fn rounded_in(self, dtype: DType, formats: &[BlockFormat]) -> Result<Self> {
        Ok(Self { params: self.params.rounded_in(dtype, formats)?, ..self })
    }

    /// The same model, not to be trained: weights in `dtype` are all that is kept of it.
    pub fn frozen_in(self, dtype: DType) -> Result<Self> {
        Ok(Self { params: self.params.frozen_in(dtype)?, ..self })
    }

    /// The same model, frozen, with an adapter that is trained in its place. Both compute in `dtype`.
    pub fn adapted(self, adapter: Adapter, dtype: DType) -> Result<Self> {
        let adapter = Some(adapter.computed_in(dtype)?);
        Ok(Self { params: self.params.frozen_in(dtype)?, adapter, ..self })
    }

    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// The parameters that are trained: the adapter's, if there is one.
    pub fn trained(&self) -> &Params {
        self.adapter.as_ref().map_or(&self.params, |adapter| &adapter.params)
    }

    /// [`trained`](Self::trained), to change them.
    pub fn trained_mut(&mut self) -> &mut Params {
        self.adapter.as_mut().map_or(&mut self.params, |adapter| &mut adapter.params)
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The batch of all rows of a tree, on the device.
    pub fn batch(&self, tree: &TokenTree) -> Result<Batch> {
        let inputs = Inputs::new(self.device(), false);
        let batch = self.batch_of(&inputs, tree, tree.rows(), false)?;
        inputs.send()?;
        Ok(batch)
    }

    /// The batch of some tokens over the slots of a tree. Its arrays are appended to `inputs`, which the caller sends.
    /// `decoding`: the tokens continue prompts, one each. A token outside the vocabulary is an error.
    pub fn batch_of(&self, inputs: &Rc<Inputs>, tree: &TokenTree, rows: Rows<'_>, decoding: bool) -> Result<Batch> {
        let placement = Placement::new(inputs, tree, rows);
        // A captured graph keeps its tables, and another batch of its size may be deeper: as deep as it has rows.
        let depth = rows.positions.iter().max().map_or(1, |&p| p as usize + 1);
        let tables = self.rotation_tables(if inputs.is_fixed() { depth.max(rows.ids.len()) } else { depth })?;
        let kind = |table: &RotationTable, window: Option<usize>| Kind {
            rotation: Rc::new(table.at(placement.positions.clone(), depth)),
            mask: Rc::new(AttentionMask::new(inputs, tree, rows, &placement, window, decoding)),
        };
        Ok(Batch {
            ids: TokenIds::new(inputs, rows.ids, self.config.vocab_size)?,
            slots: placement.slots.clone(),
            dropout_key: None,
            kinds: ByKind {
                full: kind(&tables.full, None),
                sliding: kind(&tables.sliding, Some(self.config.sliding_window)),
            },
        })
    }

    /// A batch whose embeddings get noise, appended to what it sends.
    pub fn with_noise(&self, batch: Batch, inputs: &Rc<Inputs>, noise: &mut Noise) -> Batch {
        let ids = batch.ids.with_noise(inputs, noise, self.config.hidden_size, self.params.dtype());
        Batch { ids, ..batch }
    }

    /// A batch of which the adapter's dropout leaves out what follows from `key`, which is appended to what it sends.
    pub fn with_dropout(&self, batch: Batch, inputs: &Rc<Inputs>, key: [u32; 2]) -> Batch {
        Batch { dropout_key: Some(inputs.push(&key, key.len(), 0)), ..batch }
    }

    /// Makes rotation tables that know the positions below `depth`, at least. Batches that are made from now on have them, or longer ones. Returns
    /// how many positions they know.
    pub fn know_positions(&self, depth: usize) -> Result<usize> {
        Ok(self.rotation_tables(depth)?.full.length())
    }

    /// Tables that know the positions below `depth`.
    fn rotation_tables(&self, depth: usize) -> Result<ByKind<RotationTable>> {
        let mut known = self.rotations.borrow_mut();
        if let Some(tables) = known.as_ref().filter(|tables| tables.full.length() >= depth) {
            return Ok(tables.clone());
        }
        let (c, dtype) = (&self.config, self.params.dtype());
        let length = depth.next_power_of_two().max(SHORTEST_ROTATION_TABLE);
        let table = |theta: f64| RotationTable::new(&self.device, length, c.head_dim, theta, dtype);
        let tables = ByKind { full: table(c.rope_theta)?, sliding: table(c.rope_local_base_freq)? };
        *known = Some(tables.clone());
        Ok(tables)
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
        let scale = (self.config.hidden_size as f64).sqrt();
        let h = embedding(tape, &batch.ids, &self.embedding(), scale)?;
        let x = rmsnorm(tape, &h, &self.at(self.opening(0)), self.config.rms_norm_eps)?;
        let mut stream = Stream::new([h, x]);
        for i in 0..self.layers.len() {
            let layer = self.layer(i, batch);
            let norms = layer.mlp_norms.clone();
            if let Some(cache) = cache.as_deref_mut() {
                let o = layer.forward(tape, &mut stream, Some(cache.slots(i, batch)))?;
                stream.close(tape, &o, &norms)?;
                continue;
            }
            let through = move |tape: &mut Tape, stream: [Var; 2]| {
                let mut stream = Stream::new(stream);
                let o = layer.forward(tape, &mut stream, None)?;
                Ok([stream.sum().clone(), o])
            };
            let before = stream.normed(tape)?;
            let [h, o] = tape.checkpointed("layer", before, through)?;
            // The next layer needs what the norms give in any case: they are not part of what is computed again.
            stream = Stream::opened(h);
            stream.close(tape, &o, &norms)?;
        }
        let [_, hidden] = stream.normed(tape)?;
        Ok(hidden)
    }

    /// A layer over a batch.
    fn layer(&self, i: usize, batch: &Batch) -> Layer {
        let (c, of) = (&self.config, &self.layers[i]);
        let (eps, kind) = (c.rms_norm_eps, batch.kinds.get(of.kind));
        let heads = Heads { query: c.num_attention_heads, kv: c.num_key_value_heads, dim: c.head_dim };
        let (q_norm, k_norm, rotation) = (self.at(&of.q_norm), self.at(&of.k_norm), kind.rotation.clone());
        Layer {
            qkv_proj: self.projection(&of.qkv_proj, batch),
            norm_rope: NormRope { q_norm, k_norm, rotation, heads, eps },
            mask: kind.mask.clone(),
            softmax_scale: c.query_pre_attn_scalar.powf(-0.5),
            o_proj: self.projection(&of.o_proj, batch),
            attention_norms: self.norms(&of.post_attention_layernorm, &of.pre_feedforward_layernorm),
            gate_up_proj: self.projection(&of.gate_up_proj, batch),
            down_proj: self.projection(&of.down_proj, batch),
            mlp_norms: self.norms(&of.post_feedforward_layernorm, self.opening(i + 1)),
        }
    }

    /// The norm that opens a layer, or the one after all.
    fn opening(&self, layer: usize) -> &ParamHandle {
        self.layers.get(layer).map_or(&self.norm, |layer| &layer.input_layernorm)
    }

    /// The norm that closes a block and the one that opens the next, or the last of all.
    fn norms(&self, closing: &ParamHandle, opening: &ParamHandle) -> NormPair {
        let [weight, next_weight] = [closing, opening].map(|handle| self.at(handle));
        NormPair { weight, next_weight, eps: self.config.rms_norm_eps }
    }

    /// The tied embedding and head, (V, D).
    pub fn embedding(&self) -> Param {
        self.at(&self.embedding)
    }

    /// A parameter: the adapter's own one, if it has one in its place.
    fn at(&self, handle: &ParamHandle) -> Param {
        let own = self.adapter.as_ref().and_then(|adapter| adapter.in_place_of(handle.name()));
        own.unwrap_or_else(|| self.params.at(handle))
    }

    /// A weight with what an adapter adds to it.
    fn projection(&self, weight: &ParamHandle, batch: &Batch) -> Projection {
        let update = |adapter: &Adapter| adapter.update_of(weight.name(), batch.dropout_key.as_ref());
        let update = self.adapter.as_ref().and_then(update);
        Projection { weight: self.params.at(weight), update }
    }

    /// Logits (R, V) of some rows of the hidden states.
    pub fn logits(&self, tape: &mut Tape, hidden: &Var, rows: &[u32]) -> Result<Tensor> {
        let inputs = Inputs::new(self.device(), false);
        let rows = RowList::new(&inputs, rows, hidden.value.shape()[0], rows.len())?;
        inputs.send()?;
        self.logits_after(tape, rows.pick(&hidden.value)?)
    }

    /// Logits (R, V) after hidden states (R, D).
    pub fn logits_after(&self, tape: &mut Tape, hidden: Tensor) -> Result<Tensor> {
        let hidden = tape.var(hidden);
        Ok(linear(tape, &hidden, &self.embedding())?.value)
    }
}

impl KvCache {
    /// Where a layer's keys and values of a batch go.
    fn slots<'a>(&'a mut self, layer: usize, batch: &'a Batch) -> CacheSlots<'a> {
        let (k, v) = &mut self.layers[layer];
        CacheSlots { k, v, slots: &batch.slots }
    }
}
