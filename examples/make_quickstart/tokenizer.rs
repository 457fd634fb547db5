//! Trains the tokenizer: byte-level BPE with Gemma's control tokens at FunctionGemma's ids.
//!
//! Ids: 0..107 control and unused tokens, 107 the line break, then the other bytes, then merges in the order learned.
//! Byte level, so that every text has an encoding and decoding is its exact inverse. No token is added by itself: `<bos>`
//! stands in the chat template.

use engine::chat::functiongemma::tokens;
use engine::error::{Context, Result};
use serde_json::{Map, Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, Model, SplitDelimiterBehavior, Tokenizer};

/// Ids below this one are control or unused tokens.
const CONTROL: usize = 107;
/// Words with the space before them, single digits, runs of marks, runs of spaces.
const PATTERN: &str = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Text of control token `id`, and whether decoding may leave it out: as in FunctionGemma, a call's marks stay in the text.
fn control(id: usize) -> (String, bool) {
    let name = match id {
        0 => tokens::PAD,
        1 => tokens::EOS,
        2 => tokens::BOS,
        3 => tokens::UNKNOWN,
        46 => tokens::START_DECLARATION,
        47 => tokens::END_DECLARATION,
        48 => tokens::START_CALL,
        49 => tokens::END_CALL,
        50 => tokens::START_RESPONSE,
        51 => tokens::END_RESPONSE,
        52 => tokens::ESCAPE,
        105 => tokens::START_TURN,
        106 => tokens::END_TURN,
        _ => return (format!("<unused{}>", id - 4), false),
    };
    (name.to_string(), !(46..=52).contains(&id))
}

/// Learns `vocab_size` tokens from `rows` and returns the contents of `tokenizer.json`.
pub fn train(rows: &[Value], vocab_size: usize) -> Result<Value> {
    let failed = |error: tokenizers::Error| engine::error::Error::new(format!("cannot train the tokenizer: {error}"));
    let pattern = SplitPattern::Regex(PATTERN.to_string());
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(failed)?;
    let bytes = ByteLevel::new(false, false, false);
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![split.into(), bytes.into()])));

    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_by_key(|&c| (c != 'Ċ', c));
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(vocab_size - CONTROL)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(alphabet.iter().copied().collect())
        .build()
        .into();
    let texts = rows.iter().enumerate().flat_map(|(i, row)| {
        let declared_before = i > 0 && rows[i - 1]["tools"] == row["tools"];
        let declarations = if declared_before { Vec::new() } else { declaration_texts(row) };
        declarations.into_iter().chain(message_texts(row))
    });
    tokenizer.train(&mut trainer, texts).map_err(failed)?;
    assemble(&tokenizer, &alphabet)
}

/// Puts control tokens first, the alphabet second and the merges' tokens last.
fn assemble(tokenizer: &Tokenizer, alphabet: &[char]) -> Result<Value> {
    let trained = serde_json::to_value(tokenizer).context(|| "cannot serialize the trained tokenizer")?;
    let merges = trained["model"]["merges"].clone();
    let mut learned: Vec<(String, u32)> = tokenizer.get_model().get_vocab().into_iter().collect();
    learned.sort_by_key(|&(_, id)| id);

    let mut vocab = Map::new();
    let mut added = Vec::new();
    for id in 0..CONTROL {
        let (content, special) = control(id);
        vocab.insert(content.clone(), json!(id));
        let token = AddedToken::from(content, special).normalized(false);
        let mut entry = json!({ "id": id });
        if let (Value::Object(entry), Value::Object(fields)) = (&mut entry, json!(token)) {
            entry.extend(fields);
        }
        added.push(entry);
    }
    let letters = alphabet.iter().map(|c| c.to_string());
    for token in letters.chain(learned.into_iter().map(|(token, _)| token)) {
        let id = vocab.len();
        vocab.entry(token).or_insert(json!(id));
    }
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": trained["pre_tokenizer"],
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": merges
        }
    }))
}

/// The stretches of text between control tokens in a row's declarations, roughly as a chat template writes them.
fn declaration_texts(row: &Value) -> Vec<String> {
    let mut texts = Vec::new();
    for tool in row["tools"].as_array().into_iter().flatten() {
        let function = &tool["function"];
        texts.push(format!("declaration:{}{{description:", text(&function["name"])));
        texts.push(text(&function["description"]));
        for (i, (name, property)) in function["parameters"]["properties"].as_object().into_iter().flatten().enumerate()
        {
            texts.push(format!("{}{name}:{{description:", if i == 0 { ",parameters:{properties:{" } else { "}," }));
            texts.push(text(&property["description"]));
            texts.extend([",type:".to_string(), text(&property["type"]).to_uppercase(), "}},required:[".to_string()]);
        }
        texts.extend(["],type:".to_string(), "OBJECT".to_string(), "}}".to_string()]);
    }
    texts
}

/// The stretches of text between control tokens in a row's messages.
fn message_texts(row: &Value) -> Vec<String> {
    let mut texts = Vec::new();
    for message in row["messages"].as_array().into_iter().flatten() {
        let role = if message["role"] == "assistant" { "model".to_string() } else { text(&message["role"]) };
        texts.push(format!("{role}\n{}", text(&message["content"])));
        texts.push("\n".to_string());
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            texts.push(format!("call:{}{{", text(&call["function"]["name"])));
            for (name, value) in call["function"]["arguments"].as_object().into_iter().flatten() {
                texts.extend([format!("{name}:"), text(value), "}".to_string()]);
            }
        }
    }
    texts
}

/// A string as it is, anything else as JSON, nothing for null.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// `tokenizer_config.json` for transformers' `AutoTokenizer`.
pub fn tokenizer_config() -> Value {
    json!({
        "bos_token": tokens::BOS,
        "clean_up_tokenization_spaces": false,
        "eos_token": tokens::EOS,
        "model_max_length": 2048,
        "pad_token": tokens::PAD,
        "padding_side": "left",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": tokens::UNKNOWN
    })
}

/// `special_tokens_map.json`.
pub fn special_tokens_map() -> Value {
    json!({ "bos_token": tokens::BOS, "eos_token": tokens::EOS, "pad_token": tokens::PAD, "unk_token": tokens::UNKNOWN })
}
