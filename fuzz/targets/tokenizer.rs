//! Tokenizer files: those that load encode and decode, turn a row into tokens, and are listed for a GGUF.
#![no_main]

use engine::chat::tokenizer_file::TokenizerFile;
use engine::chat::{ChatTokenizer, LossOn};
use engine::data::{Origin, Row, RowOptions};
use engine::io::gguf_vocab::GgufVocab;
use libfuzzer_sys::fuzz_target;
use serde_json::json;

const TEXT: &str = "<start_of_turn>Hé, ＜escape＞ 12.5\u{200d}日本\n\n \u{1f}a<b>hello hello</s>\u{0}";

fuzz_target!(|data: &[u8]| {
    let Ok(json) = std::str::from_utf8(data) else { return };
    if let Ok(vocab) = GgufVocab::parse(json, 512) {
        assert_eq!([vocab.tokens.len(), vocab.scores.len(), vocab.types.len()], [512; 3]);
    }
    let Ok(tokenizer) = TokenizerFile::from_json(json) else { return };
    for special in [false, true] {
        let ids = tokenizer.encode(TEXT, special).unwrap_or_default();
        tokenizer.decode(&ids);
    }
    tokenizer.decode(&[0, 1, 2, 3, 7, u32::MAX]);
    let path = engine_fuzz::file("tokenizer.json", data);
    let Ok(chat) = ChatTokenizer::load(path.parent().expect("a file is in a folder")) else { return };
    let messages = json!([{"role": "user", "content": TEXT}, {"role": "assistant", "content": "hello<escape>"}]);
    let row = Row::from_json(json!({"messages": messages}), Origin::new("r", 1), &RowOptions::default());
    let _ = chat.example(&row.expect("it is sound"), LossOn::Assistant);
});
