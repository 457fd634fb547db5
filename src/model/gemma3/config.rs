//! `config.json` of a Gemma 3 text model: read, checked, refused with a reason, written back.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{Context, Result};
use crate::model::fields::{Fields, MAX_CONFIG, TokenIds, read_small};
use crate::{bail, err};

/// Largest value taken for any single size (a vocabulary of 16 million is already absurd).
const MAX_SIZE: usize = 1 << 24;
/// Largest number of layers taken.
const MAX_LAYERS: usize = 1 << 10;
/// Largest number of parameters taken: 68 billion, above every Gemma 3.
const MAX_PARAMETERS: usize = 1 << 36;

/// How the attention of one layer looks back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerType {
    /// Query i sees key j when `0 <= i - j < sliding_window`; RoPE theta is `rope_local_base_freq`.
    SlidingAttention,
    /// Query i sees every key `j <= i`; RoPE theta is `rope_theta`.
    FullAttention,
}

/// A Gemma 3 text model, field for field as Hugging Face names them.
///
/// Made by [`Gemma3Config::load`] or [`Gemma3Config::from_value`], which check it: every size is at least 1, heads
/// divide, `head_dim` is even, there are `num_hidden_layers` layer types, and the head is tied to the embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Gemma3Config {
    /// V: rows of the embedding.
    pub vocab_size: usize,
    /// D: width of the residual stream.
    pub hidden_size: usize,
    /// F: width of the MLP.
    pub intermediate_size: usize,
    /// L: number of layers.
    pub num_hidden_layers: usize,
    /// H: query heads.
    pub num_attention_heads: usize,
    /// K: key/value heads; divides H.
    pub num_key_value_heads: usize,
    /// Dh: width of a head; even.
    pub head_dim: usize,
    /// Added to the mean square in every RMSNorm.
    pub rms_norm_eps: f64,
    /// RoPE theta of the layers with full attention.
    pub rope_theta: f64,
    /// RoPE theta of the layers with sliding attention.
    pub rope_local_base_freq: f64,
    /// How many keys, the query's own included, a sliding layer sees.
    pub sliding_window: usize,
    /// Kind of each layer, `num_hidden_layers` of them.
    pub layer_types: Vec<LayerType>,
    /// Attention scores are multiplied by `query_pre_attn_scalar^-0.5`.
    pub query_pre_attn_scalar: f64,
    /// Positions the model was made for.
    pub max_position_embeddings: usize,
    /// Always true: the head is the embedding.
    pub tie_word_embeddings: bool,
    /// First token of every sequence.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a sequence (one or several in the file).
    pub eos_token_id: Vec<u32>,
    /// Filler token.
    pub pad_token_id: Option<u32>,
    /// The file as read, so that saving keeps what is not known here.
    raw: Map<String, Value>,
}

impl Gemma3Config {
    /// Reads and checks `folder/config.json`.
    ///
    /// # Errors
    /// The file is missing or not JSON, or describes anything but a Gemma 3 text model that this crate computes exactly.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = read_small(&path, MAX_CONFIG).map_err(|e| {
            e.hint("the model must be a Hugging Face folder with `config.json` and `model.safetensors`")
        })?;
        let value = serde_json::from_str(&text).context(|| format!("`{}` is not JSON", path.display()))?;
        Self::from_value(value).context(|| format!("cannot use the model of `{}`", path.display()))
    }

    /// Checks a `config.json` given as JSON; what is absent gets transformers' default for Gemma 3.
    ///
    /// # Errors
    /// As [`Gemma3Config::load`], less the file.
    pub fn from_value(value: Value) -> Result<Self> {
        let Value::Object(raw) = value else { bail!("the model's config is not a JSON object") };
        refuse_other_architectures(&raw)?;
        let fields = Fields(&raw);
        refuse_other_features(&fields)?;
        let (rope_theta, rope_local_base_freq) = rope_thetas(&fields)?;
        let num_hidden_layers = fields.required("num_hidden_layers")?;
        let config = Self {
            vocab_size: fields.required("vocab_size")?,
            hidden_size: fields.required("hidden_size")?,
            intermediate_size: fields.required("intermediate_size")?,
            num_hidden_layers,
            num_attention_heads: fields.required("num_attention_heads")?,
            num_key_value_heads: fields.required("num_key_value_heads")?,
            head_dim: fields.optional("head_dim")?.unwrap_or(256),
            rms_norm_eps: fields.optional("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta,
            rope_local_base_freq,
            sliding_window: fields.optional("sliding_window")?.unwrap_or(4096),
            layer_types: layer_types(&fields, num_hidden_layers)?,
            query_pre_attn_scalar: fields.optional("query_pre_attn_scalar")?.unwrap_or(256.0),
            max_position_embeddings: fields.optional("max_position_embeddings")?.unwrap_or(131_072),
            tie_word_embeddings: true,
            bos_token_id: fields.optional("bos_token_id")?,
            eos_token_id: fields.optional("eos_token_id")?.map(TokenIds::into_vec).unwrap_or_default(),
            pad_token_id: fields.optional("pad_token_id")?,
            raw,
        };
        config.check()?;
        Ok(config)
    }

    /// The config to save beside weights of type `dtype` (`"bfloat16"` or `"float32"`): as read, with the dtype
    /// updated and the layer types and architecture spelt out.
    pub fn to_value(&self, dtype: &str) -> Value {
        let mut raw = self.raw.clone();
        let key = if raw.contains_key("torch_dtype") && !raw.contains_key("dtype") { "torch_dtype" } else { "dtype" };
        raw.insert(key.into(), dtype.into());
        raw.entry("architectures").or_insert_with(|| vec!["Gemma3ForCausalLM"].into());
        if raw.get("layer_types").is_none_or(Value::is_null) {
            let names = self.layer_types.iter().map(|kind| match kind {
                LayerType::SlidingAttention => "sliding_attention",
                LayerType::FullAttention => "full_attention",
            });
            raw.insert("layer_types".into(), names.collect::<Vec<_>>().into());
        }
        Value::Object(raw)
    }

    fn check(&self) -> Result<()> {
        check_size("vocab_size", self.vocab_size, MAX_SIZE)?;
        check_size("hidden_size", self.hidden_size, MAX_SIZE)?;
        check_size("intermediate_size", self.intermediate_size, MAX_SIZE)?;
        check_size("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS)?;
        check_size("num_attention_heads", self.num_attention_heads, MAX_SIZE)?;
        check_size("num_key_value_heads", self.num_key_value_heads, MAX_SIZE)?;
        check_size("head_dim", self.head_dim, MAX_SIZE)?;
        check_size("sliding_window", self.sliding_window, usize::MAX)?;
        check_size("max_position_embeddings", self.max_position_embeddings, usize::MAX)?;
        let scalars = [
            ("rms_norm_eps", self.rms_norm_eps),
            ("rope_theta", self.rope_theta),
            ("rope_local_base_freq", self.rope_local_base_freq),
            ("query_pre_attn_scalar", self.query_pre_attn_scalar),
        ];
        for (name, value) in scalars {
            if !(value > 0.0 && value.is_finite()) {
                bail!("`{name}` is {value}; expected a positive number");
            }
        }
        self.check_heads()?;
        self.check_tokens()?;
        self.check_parameter_count()
    }

    fn check_heads(&self) -> Result<()> {
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        if !heads.is_multiple_of(kv_heads) {
            bail!("`num_attention_heads` {heads} is not a multiple of `num_key_value_heads` {kv_heads}");
        }
        if !self.head_dim.is_multiple_of(2) {
            bail!("`head_dim` {} is odd; rotary embeddings rotate its two halves", self.head_dim);
        }
        let (kinds, layers) = (self.layer_types.len(), self.num_hidden_layers);
        if kinds != layers {
            bail!("`layer_types` has {kinds} entries for {layers} layers");
        }
        Ok(())
    }

    fn check_tokens(&self) -> Result<()> {
        let special = self.bos_token_id.iter().chain(&self.pad_token_id).chain(&self.eos_token_id);
        match special.copied().find(|&id| id as usize >= self.vocab_size) {
            Some(id) => Err(err!("special token id {id} is outside the vocabulary of {}", self.vocab_size)),
            None => Ok(()),
        }
    }

    fn check_parameter_count(&self) -> Result<()> {
        let (d, dh) = (self.hidden_size as u128, self.head_dim as u128);
        let heads = 2 * self.num_attention_heads as u128 + 2 * self.num_key_value_heads as u128;
        let layer = d * dh * heads + 3 * d * self.intermediate_size as u128;
        let total = d * self.vocab_size as u128 + layer * self.num_hidden_layers as u128;
        if total > MAX_PARAMETERS as u128 {
            bail!("the sizes make {total} parameters; at most {MAX_PARAMETERS} are taken");
        }
        Ok(())
    }
}

fn check_size(name: &str, size: usize, limit: usize) -> Result<()> {
    if size == 0 || size > limit {
        bail!("`{name}` is {size}; expected 1 to {limit}");
    }
    Ok(())
}

/// transformers 5 keeps RoPE per kind of layer.
#[derive(Default, Deserialize)]
struct RopeParameters {
    sliding_attention: Option<Rope>,
    full_attention: Option<Rope>,
}

#[derive(Deserialize)]
struct Rope {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

/// RoPE theta of the full and of the sliding layers, from the new form or the old.
fn rope_thetas(fields: &Fields) -> Result<(f64, f64)> {
    let nested: Option<RopeParameters> = fields.optional("rope_parameters")?;
    if nested.as_ref().is_some_and(|rope| rope.sliding_attention.is_none() && rope.full_attention.is_none()) {
        bail!("`rope_parameters` has neither `full_attention` nor `sliding_attention`");
    }
    let nested = nested.unwrap_or_default();
    let kinds = [&nested.full_attention, &nested.sliding_attention].into_iter().flatten();
    let scaled = kinds.filter_map(|rope| rope.rope_type.as_deref()).any(|kind| kind != "default");
    if scaled || fields.optional::<Value>("rope_scaling")?.is_some() {
        bail!("the model scales its rotary embeddings (`rope_scaling`), which is not supported");
    }
    let theta = |rope: Option<Rope>, name, default| match rope.and_then(|rope| rope.rope_theta) {
        Some(theta) => Ok(theta),
        None => fields.optional(name).map(|flat| flat.unwrap_or(default)),
    };
    Ok((
        theta(nested.full_attention, "rope_theta", 1e6)?,
        theta(nested.sliding_attention, "rope_local_base_freq", 1e4)?,
    ))
}

fn layer_types(fields: &Fields, layers: usize) -> Result<Vec<LayerType>> {
    if let Some(kinds) = fields.optional("layer_types")? {
        return Ok(kinds);
    }
    let pattern = match fields.optional("sliding_window_pattern")? {
        Some(pattern) => Some(pattern),
        None => fields.optional("_sliding_window_pattern")?,
    };
    match pattern.unwrap_or(6) {
        0 => Err(err!("`sliding_window_pattern` is 0")),
        pattern => Ok(layer_pattern(layers.min(MAX_LAYERS), pattern)),
    }
}

fn refuse_other_features(fields: &Fields) -> Result<()> {
    for name in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if fields.optional::<f64>(name)?.is_some() {
            bail!("the model caps its logits (`{name}`), which is not supported");
        }
    }
    if fields.optional("attention_bias")? == Some(true) {
        bail!("the model has biases (`attention_bias`), which is not supported");
    }
    if fields.optional("use_bidirectional_attention")? == Some(true) {
        bail!("the model looks ahead (`use_bidirectional_attention`); only causal models generate text");
    }
    if fields.optional("tie_word_embeddings")? == Some(false) {
        bail!("the model has a head of its own (`tie_word_embeddings` is false), which is not supported");
    }
    let activation: Option<String> = fields.optional("hidden_activation")?;
    if let Some(activation) = activation.filter(|name| name != "gelu_pytorch_tanh") {
        bail!("`hidden_activation` is `{activation}`; only `gelu_pytorch_tanh` is supported");
    }
    if fields.optional::<Value>("quantization_config")?.is_some() {
        return Err(err!("the weights are quantized (`quantization_config`)").hint("use the unquantized checkpoint"));
    }
    Ok(())
}

/// Every `pattern`-th layer attends fully, the others in the window.
fn layer_pattern(layers: usize, pattern: usize) -> Vec<LayerType> {
    let kind = |i: usize| match i % pattern {
        0 => LayerType::FullAttention,
        _ => LayerType::SlidingAttention,
    };
    (1..=layers).map(kind).collect()
}

fn refuse_other_architectures(raw: &Map<String, Value>) -> Result<()> {
    let hint = "use a Gemma 3 text model, for example `google/functiongemma-270m-it`";
    match raw.get("model_type").and_then(Value::as_str) {
        Some("gemma3_text") => Ok(()),
        Some("gemma3") => {
            Err(err!("the model is the multimodal Gemma 3 (`model_type` is `gemma3`); only text models are supported")
                .hint(hint))
        }
        Some(other) => Err(err!("`model_type` is `{other}`; only `gemma3_text` is supported").hint(hint)),
        None => Err(err!("`model_type` is missing; expected `gemma3_text`").hint(hint)),
    }
}
