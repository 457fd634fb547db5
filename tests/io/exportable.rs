//! A tiny model that can be exported: rows of whole blocks, and a tokenizer of Gemma's kind.

use std::fs;
use std::path::Path;

use engine::io::safetensors::{SaveDtype, write_model};
use engine::model::gemma3::config::Gemma3Config;
use engine::model::gemma3::table::{parameter_count, parameter_specs};
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

/// Rows of the embedding: 8 more than the tokenizer has tokens.
pub const VOCAB: usize = 384;
/// What the merges make, in their order.
pub const MERGED: [(&str, &str); 4] = [("t", "h"), ("\u{2581}", "th"), ("i", "n"), ("th", "e")];
/// The first id of a byte, of what merges make, of a single character.
pub const BYTES: usize = 110;
pub const PIECES: usize = BYTES + 256;
pub const SINGLES: usize = PIECES + MERGED.len();
/// In the order of their ids.
const CHARACTERS: [&str; 6] = ["\u{2581}", "e", "t", "i", "n", "h"];
const FUNCTION_TOKENS: [&str; 7] = [
    "<start_function_declaration>",
    "<end_function_declaration>",
    "<start_function_call>",
    "<end_function_call>",
    "<start_function_response>",
    "<end_function_response>",
    "<escape>",
];

pub fn config_value() -> Value {
    json!({
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text",
        "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 32, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
        "bos_token_id": 2, "eos_token_id": [1, 50], "pad_token_id": 0,
    })
}

/// `tokenizer.json`, laid out as Gemma's: special tokens, unused ones, bytes, merged pieces, characters.
pub fn tokenizer() -> Value {
    let mut texts: Vec<String> =
        ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "[multimodal]"].map(str::to_owned).to_vec();
    let unused = |texts: &mut Vec<String>, until: usize| {
        (texts.len()..until).for_each(|id| texts.push(format!("<unused{id}>")));
    };
    unused(&mut texts, 46);
    texts.extend(FUNCTION_TOKENS.map(str::to_owned));
    unused(&mut texts, 105);
    texts.extend(["<start_of_turn>", "<end_of_turn>", "\n", "\n\n", "\u{2581}\u{2581}"].map(str::to_owned));
    let added = texts.iter().enumerate().map(|(id, text)| {
        let special = id < 4 || text.ends_with("_of_turn>");
        json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": special})
    });
    let added: Vec<Value> = added.collect();
    texts.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    texts.extend(MERGED.map(|(left, right)| format!("{left}{right}")));
    texts.extend(CHARACTERS.map(str::to_owned));
    let vocab: serde_json::Map<String, Value> =
        texts.into_iter().zip(0..).map(|(text, id)| (text, json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false},
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        ]},
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
            "merges": MERGED.map(|(left, right)| [left, right]),
        },
    })
}

/// Numbers that bf16 holds exactly, as it does with 1 added.
pub fn plain_weights() -> Vec<f32> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    let count = parameter_count(&parameter_specs(&Gemma3Config::from_value(config_value()).unwrap()));
    (0..count).map(|_| rng.random_range(-63i32..=63) as f32 / 64.0).collect()
}

/// Numbers of all sizes.
pub fn any_weights() -> Vec<f32> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(4);
    plain_weights().iter().map(|_| rng.random_range(-1.0f32..1.0).powi(3)).collect()
}

/// The model's folder, with a config that may have been changed.
pub fn write(folder: &Path, config: &Value, flat: &[f32]) {
    fs::create_dir_all(folder).unwrap();
    let put = |name: &str, value: &Value| fs::write(folder.join(name), value.to_string()).unwrap();
    put("config.json", config);
    put(
        "generation_config.json",
        &json!({"do_sample": true, "top_k": 64, "top_p": 0.95, "eos_token_id": [1, 50, 106]}),
    );
    put("tokenizer.json", &tokenizer());
    put(
        "tokenizer_config.json",
        &json!({"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}),
    );
    fs::write(folder.join("chat_template.jinja"), "{{ bos_token }}{{ messages[0].content }}").unwrap();
    let specs = parameter_specs(&Gemma3Config::from_value(config.clone()).unwrap());
    write_model(&mut fs::File::create(folder.join("model.safetensors")).unwrap(), &specs, flat, SaveDtype::F32)
        .unwrap();
}
