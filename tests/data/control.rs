//! Marks around control tokens that the data spells.

use engine::chat::control::{ControlTokens, Rendered};
use serde_json::json;

const MARK: char = '\u{fdd0}';

fn tokens() -> ControlTokens {
    let added = [("<eos>", true), ("<escape>", false), ("<unused12>", false), ("<table>", false), ("\n\n", false)];
    ControlTokens::new(added)
}

#[test]
fn special_named_and_unused_tokens_control_and_others_do_not() {
    let tokens = tokens();
    let controls = ["<eos>", "<escape>", "<unused12>", "<table>", "\n\n"].map(|text| tokens.contains(text));
    assert_eq!(controls, [true, true, true, false, false]);
    assert!(!ControlTokens::new([("<unused>", false), ("<unused1x>", false)]).contains("<unused>"));
}

#[test]
fn spellings_and_unfinished_endings_are_marked_in_strings_and_keys() {
    let value = json!({"<eos>": ["a<escape>b", "<table>", "x <esc", "x <es ", "<e x", 5, null]});
    let marked = json!({"<\u{fdd0}eos>": ["a<\u{fdd0}escape>b", "<table>", "x <\u{fdd0}esc", "x <\u{fdd0}es ", "<e x", 5, null]});
    assert_eq!(tokens().mark(&value, MARK), marked);
}

#[test]
fn a_cut_stays_only_where_a_control_token_is_spelt() {
    let rendered = "<escape>a<\u{fdd0}escape>b<\u{fdd0}es x<\u{fdd0}e\u{fdd0}os>";
    let expected = Rendered { text: "<escape>a<escape>b<es x<eos>".into(), cuts: vec![10, 24] };
    assert_eq!(tokens().unmark(rendered, MARK), expected);
}

#[test]
fn the_mark_is_a_character_that_the_row_does_not_have() {
    let used = [json!({"\u{fdd0}": "\u{fdd1}"})];
    assert_eq!(tokens().choose_mark(&[&used, &[]]).unwrap(), '\u{fdd2}');
    let all: String = ('\u{fdd0}'..='\u{fdef}').collect();
    assert!(tokens().choose_mark(&[&[json!(all)]]).is_err());
}
