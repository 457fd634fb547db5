//! The rendered example with its scored tokens marked.

use engine::chat::preview::id_lines;
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
    let text = shown("a\x1b[2J\u{9b}b\rc\u{202e}d\u{200f}", LossOn::All, false);
    assert!(text.contains("a\\u{1b}[2J\\u{9b}b\\u{d}c\\u{202e}d\u{200f}"), "{text}");
}

#[test]
fn names_in_errors_and_their_places_are_shown_and_not_obeyed() {
    let row = json!({"messages": [{"role": "us\x1b[31mer", "content": "a"}], "\x1b]0;title\x07": 1});
    for row in [row, json!({"\x1b]0;title\x07": 1})] {
        let report =
            Row::from_json(row, Origin::new("rows\x1b[2J.jsonl", 3), &RowOptions::default()).unwrap_err().report();
        assert!(report.contains("rows\\u{1b}[2J.jsonl:3") && !report.contains(['\x1b', '\x07']), "{report}");
    }
}

#[test]
fn ids_come_one_to_a_line_with_their_texts_and_a_star_where_they_are_scored() {
    let messages = json!([{"role": "user", "content": "<eos>"}, {"role": "assistant", "content": "\x1b"}]);
    let row = Row::from_json(json!({"messages": messages}), Origin::new("r", 1), &RowOptions::default()).unwrap();
    let tokenizer = tokenizer();
    let example = tokenizer.example(&row, LossOn::Assistant).unwrap();
    let lines = id_lines(&example, &tokenizer);
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), example.ids.len());
    assert_eq!((lines[0], lines[1]), ("     0       2   <bos>", "     1     105   <start_of_turn>"));
    // The user's `<eos>` is text: none of its tokens is token 1.
    assert!(lines.iter().all(|line| line.split_whitespace().nth(1) != Some("1")));
    let scored: Vec<&str> = lines.iter().filter(|line| line.contains(" * ")).map(|line| &line[17..]).collect();
    assert_eq!(scored, ["\\u{1b}", "<end_of_turn>", "\\n"]);
}
