//! A tokenizer of a few hundred tokens, built like Gemma's: byte fallback, `▁` for spaces, control tokens at their ids.

use std::path::Path;

use engine::chat::ChatTokenizer;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const CONTROL: [&str; 7] = [
    "<start_function_declaration>",
    "<end_function_declaration>",
    "<start_function_call>",
    "<end_function_call>",
    "<start_function_response>",
    "<end_function_response>",
    "<escape>",
];

/// The text and the `special` flag of the added tokens, by id.
fn added() -> Vec<(String, bool)> {
    let mut tokens: Vec<(String, bool)> = ["<pad>", "<eos>", "<bos>", "<unk>"].map(|t| (t.to_string(), true)).into();
    tokens.extend(["<mask>", "[multimodal]"].map(|t| (t.to_string(), false)));
    tokens.extend((0..40).map(|n| (format!("<unused{n}>"), false)));
    tokens.extend(CONTROL.map(|t| (t.to_string(), false)));
    tokens.extend((40..92).map(|n| (format!("<unused{n}>"), false)));
    tokens.extend(["<start_of_turn>", "<end_of_turn>"].map(|t| (t.to_string(), true)));
    tokens.extend(["\n", "\n\n", "<table>", "<start_of_image>"].map(|t| (t.to_string(), false)));
    tokens
}

pub fn tokenizer_json() -> String {
    let added = added();
    let mut vocab = Map::new();
    let mut add = |text: String| vocab.len().try_into().map(|id: u32| vocab.insert(text, id.into())).map(|_| ());
    for (text, _) in &added {
        add(text.clone()).unwrap();
    }
    for byte in 0..=255 {
        add(format!("<0x{byte:02X}>")).unwrap();
    }
    for c in (33..127u8).map(char::from).chain(['▁', 'é']) {
        add(c.to_string()).unwrap();
    }
    let merges = [("e", "s"), ("es", "c"), ("▁", "a"), ("h", "i"), ("l", "l"), ("o", "w"), ("ow", "n")];
    for (left, right) in merges {
        add(format!("{left}{right}")).unwrap();
    }
    let token = |(id, (text, special)): (usize, &(String, bool))| {
        json!({"id": id, "content": text, "special": special, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false})
    };
    let bos = json!({"SpecialToken": {"id": "<bos>", "type_id": 0}});
    let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added.iter().enumerate().map(token).collect::<Vec<Value>>(),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false},
        "post_processor": {"type": "TemplateProcessing", "single": [bos, sequence("A")],
            "pair": [bos, sequence("A"), sequence("B")],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": merges.map(|(a, b)| json!([a, b]))}
    })
    .to_string()
}

/// A checkpoint folder with the tokenizer alone: the project's own template is used.
pub fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "tokenizer.json", &tokenizer_json());
    folder
}

pub fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

/// The tokenizer with the project's own template.
pub fn tokenizer() -> ChatTokenizer {
    ChatTokenizer::load(folder().path()).unwrap()
}
