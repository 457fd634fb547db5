//! The tokenizer and the config that the generator writes.

use std::sync::LazyLock;

use tokenizers::Tokenizer;

use crate::chats::{words_and_tools, write_chats};
use crate::pool::Pool;
use crate::{config, tokenizer};

const VOCAB: usize = 1_024;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let rows = write_chats(&Pool::load().expect("word lists"), words_and_tools, 1, 800, 8);
    let written = tokenizer::train(&rows, VOCAB).expect("a tokenizer").to_string();
    written.parse().expect("a tokenizer that loads")
});

#[test]
fn control_tokens_have_functiongemmas_ids() {
    let ids = [
        ("<pad>", 0),
        ("<eos>", 1),
        ("<bos>", 2),
        ("<unk>", 3),
        ("<start_function_declaration>", 46),
        ("<end_function_declaration>", 47),
        ("<start_function_call>", 48),
        ("<end_function_call>", 49),
        ("<start_function_response>", 50),
        ("<end_function_response>", 51),
        ("<escape>", 52),
        ("<start_of_turn>", 105),
        ("<end_of_turn>", 106),
    ];
    for (token, id) in ids {
        assert_eq!(TOKENIZER.encode(token, false).expect("an encoding").get_ids(), [id], "{token}");
    }
    assert_eq!(TOKENIZER.encode("\n", false).expect("an encoding").get_ids(), [107]);
}

#[test]
fn decoding_is_the_inverse_of_encoding_for_any_text() {
    let every_byte: String = (0..0x250).filter_map(char::from_u32).collect();
    for text in
        ["", " a  b\n\n\t c ", "Ünï 日本 🦀 ▁x", "call:f{a:<escape>1 2<escape>}", "<bos>12345 don't", &every_byte]
    {
        let encoding = TOKENIZER.encode(text, true).expect("an encoding");
        assert_eq!(TOKENIZER.decode(encoding.get_ids(), false).expect("a text"), text);
    }
}

#[test]
fn the_vocabulary_is_full_and_the_config_says_its_size() {
    assert_eq!(TOKENIZER.get_vocab_size(true), VOCAB);
    assert!((0..VOCAB as u32).all(|id| TOKENIZER.id_to_token(id).is_some()), "every id below {VOCAB} has a token");
    let config = config::config(VOCAB);
    assert_eq!(config["vocab_size"], VOCAB);
    let layers = config["layer_types"].as_array().expect("a list");
    assert_eq!(layers.len() as u64, config["num_hidden_layers"]);
    assert_eq!(layers[5], "full_attention");
    assert_eq!(layers.iter().filter(|kind| *kind == "full_attention").count(), 1);
}

#[test]
fn the_same_chats_give_the_same_tokenizer() {
    let rows = write_chats(&Pool::load().expect("word lists"), words_and_tools, 2, 400, 8);
    let train = || tokenizer::train(&rows, 600).expect("a tokenizer").to_string();
    assert_eq!(train(), train());
}

#[test]
fn special_tokens_exist_and_generation_ends_at_them() {
    for settings in [tokenizer::tokenizer_config(), tokenizer::special_tokens_map()] {
        for name in ["bos_token", "eos_token", "pad_token", "unk_token"] {
            assert!(
                TOKENIZER.token_to_id(settings[name].as_str().expect("a token")).is_some_and(|id| id < 4),
                "{name}"
            );
        }
    }
    let ends = ["<eos>", "<start_function_response>", "<end_of_turn>"].map(|token| TOKENIZER.token_to_id(token));
    assert_eq!(config::generation_config()["eos_token_id"], serde_json::json!(ends));
}
