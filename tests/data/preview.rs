//! The rendered example with its scored tokens marked.

use engine::chat::{LossOn, preview};
use engine::data::{Origin, Row, RowOptions};
use serde_json::json;

use crate::tiny::tokenizer;

fn shown(content: &str, loss: LossOn, color: bool) -> String {
    let messages = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": content}]);
    let row =
        Row::from_json(json!({"messages": messages}), Origin::new("rows.jsonl", 3), &RowOptions::default()).unwrap();
    let tokenizer = tokenizer();
    preview(&tokenizer.example(&row, loss).unwrap(), &tokenizer, color)
}

#[test]
fn scored_tokens_stand_between_brackets_and_are_counted() {
    let expected = "<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n⟦all<end_of_turn>\n⟧\n\
                    rows.jsonl:3: 21 tokens, 4 scored\n";
    assert_eq!(shown("all", LossOn::Assistant, false), expected);
}

#[test]
fn scored_tokens_are_green_in_colour() {
    assert!(shown("all", LossOn::Assistant, true).contains("model\n\x1b[32mall<end_of_turn>\n\x1b[0m"));
}

#[test]
fn the_first_token_is_never_marked() {
    assert!(shown("all", LossOn::All, false).starts_with("<bos>⟦<start_of_turn>"));
}

#[test]
fn terminal_escapes_in_the_data_are_shown_and_not_obeyed() {
    assert!(!shown("a\x1b[2Jb", LossOn::All, false).contains('\x1b'));
}
