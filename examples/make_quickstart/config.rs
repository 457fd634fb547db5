//! The shape of the quickstart's model: FunctionGemma's architecture, scaled down to a few megabytes.

use serde_json::{Value, json};

/// Layers: one round of Gemma's pattern, five that see a window and one that sees everything.
const LAYERS: usize = 6;
const HIDDEN: usize = 128;
const INTERMEDIATE: usize = 256;
const HEAD_DIM: usize = 32;
const WINDOW: usize = 256;
/// About 1 / sqrt(hidden): embeddings, multiplied by sqrt(hidden), then weigh as much as what the layers add to them.
const INITIALIZER_RANGE: f64 = 0.09;

/// `config.json` with Hugging Face's names, for a vocabulary of `vocab_size` tokens.
pub fn config(vocab_size: usize) -> Value {
    let layer_types: Vec<&str> =
        (1..=LAYERS).map(|i| if i % 6 == 0 { "full_attention" } else { "sliding_attention" }).collect();
    json!({
        "_sliding_window_pattern": 6,
        "architectures": ["Gemma3ForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": null,
        "bos_token_id": 2,
        "dtype": "bfloat16",
        "eos_token_id": [1, 50],
        "final_logit_softcapping": null,
        "head_dim": HEAD_DIM,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": HIDDEN,
        "initializer_range": INITIALIZER_RANGE,
        "intermediate_size": INTERMEDIATE,
        "layer_types": layer_types,
        "max_position_embeddings": 2048,
        "model_type": "gemma3_text",
        "num_attention_heads": 4,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "query_pre_attn_scalar": HEAD_DIM,
        "rms_norm_eps": 1e-6,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": null,
        "rope_theta": 1000000.0,
        "sliding_window": WINDOW,
        "tie_word_embeddings": true,
        "use_bidirectional_attention": false,
        "use_cache": true,
        "vocab_size": vocab_size
    })
}

/// `generation_config.json`: greedy, ending where FunctionGemma ends.
pub fn generation_config() -> Value {
    json!({ "bos_token_id": 2, "do_sample": false, "eos_token_id": [1, 50, 106], "pad_token_id": 0 })
}
