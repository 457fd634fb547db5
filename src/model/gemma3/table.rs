//! Every parameter of the model, declared once: name, shape, weight decay, place in the flat buffer.

use super::config::Gemma3Config;
use crate::autograd::ParamSpec;

/// All parameters in the order of the flat buffer, each starting where the one before it ends.
///
/// q, k, v of a layer are adjacent, and so are gate and up: one product each computes them as a view.
pub fn parameter_specs(config: &Gemma3Config) -> Vec<ParamSpec> {
    let (v, d) = (config.vocab_size, config.hidden_size);
    let mut specs = vec![ParamSpec::new("model.embed_tokens.weight".into(), &[v, d])];
    for layer in 0..config.num_hidden_layers {
        push_layer(&mut specs, config, layer);
    }
    specs.push(ParamSpec::new("model.norm.weight".into(), &[d]));
    specs
}

/// Number of elements of the flat buffer.
pub fn parameter_count(specs: &[ParamSpec]) -> usize {
    specs.iter().map(ParamSpec::len).sum()
}

fn push_layer(specs: &mut Vec<ParamSpec>, config: &Gemma3Config, layer: usize) {
    let (d, f, dh) = (config.hidden_size, config.intermediate_size, config.head_dim);
    let (q, kv) = (config.num_attention_heads * dh, config.num_key_value_heads * dh);
    let shapes: [(&str, &[usize]); 13] = [
        ("input_layernorm", &[d]),
        ("self_attn.q_proj", &[q, d]),
        ("self_attn.k_proj", &[kv, d]),
        ("self_attn.v_proj", &[kv, d]),
        ("self_attn.q_norm", &[dh]),
        ("self_attn.k_norm", &[dh]),
        ("self_attn.o_proj", &[d, q]),
        ("post_attention_layernorm", &[d]),
        ("pre_feedforward_layernorm", &[d]),
        ("mlp.gate_proj", &[f, d]),
        ("mlp.up_proj", &[f, d]),
        ("mlp.down_proj", &[d, f]),
        ("post_feedforward_layernorm", &[d]),
    ];
    for (name, shape) in shapes {
        specs.push(ParamSpec::new(format!("model.layers.{layer}.{name}.weight"), shape));
    }
}
