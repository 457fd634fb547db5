//! Every parameter of the model, declared once: its names, shape and kind, and by its order the place in the flat buffer.

use super::config::Gemma3Config;
use crate::autograd::ParamSpec;

/// Hugging Face's name of the embedding, which is the head too.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// llama.cpp's name of it.
pub const GGUF_EMBEDDING: &str = "token_embd.weight";

/// The linear modules of a layer: those that one product computes stand together, on top of each other in memory.
pub const PRODUCTS: [&[&str]; 4] = [
    &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    &["self_attn.o_proj"],
    &["mlp.gate_proj", "mlp.up_proj"],
    &["mlp.down_proj"],
];

/// What a parameter is for; how it starts, decays and is stored follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// A matrix: decays, and starts as small random numbers.
    Matrix,
    /// The weight of an RMSNorm, which multiplies by 1 + weight: does not decay, and starts as 0.
    Norm,
}

impl ParamKind {
    /// What llama.cpp adds to a weight when it writes a GGUF: its norms multiply by the weight alone.
    pub fn gguf_offset(self) -> f32 {
        match self {
            Self::Matrix => 0.0,
            Self::Norm => 1.0,
        }
    }
}

/// One parameter: a row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Hugging Face's name, the shape, and whether weight decay applies.
    pub spec: ParamSpec,
    /// llama.cpp's name.
    pub gguf_name: String,
    pub kind: ParamKind,
    /// Whether training changes it: full fine-tuning changes all.
    pub trainable: bool,
}

impl Parameter {
    fn new(name: &str, gguf_name: &str, kind: ParamKind, shape: &[usize]) -> Self {
        let spec = ParamSpec { name: name.into(), shape: shape.to_vec(), decay: kind == ParamKind::Matrix };
        Self { spec, gguf_name: gguf_name.into(), kind, trainable: true }
    }
}

/// All parameters in the order of the flat buffer, each starting where the one before it ends.
///
/// q, k, v of a layer are adjacent, and so are gate and up: one product each computes them as a view.
pub fn parameters(config: &Gemma3Config) -> Vec<Parameter> {
    let d = config.hidden_size;
    let mut table = vec![Parameter::new(EMBEDDING, GGUF_EMBEDDING, ParamKind::Matrix, &[config.vocab_size, d])];
    for layer in 0..config.num_hidden_layers {
        table.extend(layer_parameters(config, layer));
    }
    table.push(Parameter::new("model.norm.weight", "output_norm.weight", ParamKind::Norm, &[d]));
    table
}

fn layer_parameters(config: &Gemma3Config, layer: usize) -> [Parameter; 13] {
    let (d, f, dh) = (config.hidden_size, config.intermediate_size, config.head_dim);
    let (q, kv) = (config.num_attention_heads * dh, config.num_key_value_heads * dh);
    let row = |name: &str, gguf_name: &str, kind, shape: &[usize]| {
        let name = format!("model.layers.{layer}.{name}.weight");
        Parameter::new(&name, &format!("blk.{layer}.{gguf_name}.weight"), kind, shape)
    };
    let matrix = |name, gguf_name, shape: [usize; 2]| row(name, gguf_name, ParamKind::Matrix, &shape);
    let norm = |name, gguf_name, width| row(name, gguf_name, ParamKind::Norm, &[width]);
    [
        norm("input_layernorm", "attn_norm", d),
        matrix("self_attn.q_proj", "attn_q", [q, d]),
        matrix("self_attn.k_proj", "attn_k", [kv, d]),
        matrix("self_attn.v_proj", "attn_v", [kv, d]),
        norm("self_attn.q_norm", "attn_q_norm", dh),
        norm("self_attn.k_norm", "attn_k_norm", dh),
        matrix("self_attn.o_proj", "attn_output", [d, q]),
        norm("post_attention_layernorm", "post_attention_norm", d),
        norm("pre_feedforward_layernorm", "ffn_norm", d),
        matrix("mlp.gate_proj", "ffn_gate", [f, d]),
        matrix("mlp.up_proj", "ffn_up", [f, d]),
        matrix("mlp.down_proj", "ffn_down", [d, f]),
        norm("post_feedforward_layernorm", "post_ffw_norm", d),
    ]
}

/// What the tape, the optimizer and safetensors need of [`parameters`].
pub fn parameter_specs(config: &Gemma3Config) -> Vec<ParamSpec> {
    parameters(config).into_iter().map(|parameter| parameter.spec).collect()
}

/// Number of elements of the flat buffer.
pub fn parameter_count(specs: &[ParamSpec]) -> usize {
    specs.iter().map(ParamSpec::len).sum()
}
