//! Marks around the control tokens that a template writes.

use engine::chat::control::{ControlTokens, MARK_PAIRS, Marks, Rendered};
use serde_json::json;

const MARKS: Marks = Marks { open: '«', close: '»' };

fn tokens() -> ControlTokens {
    let added = [("<eos>", true), ("<escape>", false), ("<unused12>", false), ("<table>", false), ("\n\n", false)];
    ControlTokens::new(added).unwrap()
}

#[test]
fn special_named_and_unused_tokens_control_and_others_do_not() {
    let tokens = tokens();
    let controls = ["<eos>", "<escape>", "<unused12>", "<table>", "\n\n"].map(|text| tokens.contains(text));
    assert_eq!(controls, [true, true, true, false, false]);
    let tokens = ControlTokens::new([("<unused>", false), ("<unused1x>", false)]).unwrap();
    assert!(!tokens.contains("<unused>"));
}

#[test]
fn a_control_token_of_absurd_length_is_refused() {
    assert!(ControlTokens::new([("x".repeat(1024).as_str(), true)]).is_ok());
    assert!(ControlTokens::new([("x".repeat(1025).as_str(), true)]).is_err());
}

#[test]
fn tokens_in_text_strings_and_raw_blocks_are_marked_and_expressions_and_comments_are_not() {
    let marked = |source: &str| tokens().mark_source(source, MARKS);
    assert_eq!(marked("a<eos>b{{ x ~ '<escape>' }}"), "a«<eos>»b{{ x ~ '«<escape>»' }}");
    assert_eq!(
        marked("{# don't <eos> #}{% if a <b and c['<eos>'] > d %}"),
        "{# don't <eos> #}{% if a <b and c['«<eos>»'] > d %}"
    );
    assert_eq!(marked("{{ {'a': {'b': '}}<eos>'}} }}<eos>"), "{{ {'a': {'b': '}}«<eos>»'}} }}«<eos>»");
    assert_eq!(marked("{% raw %}{{ '<eos> {% endraw -%}<eos>"), "{% raw %}{{ '«<eos>» {% endraw -%}«<eos>»");
    assert_eq!(marked(r#"{{ "\"<eos>" }}"#), r#"{{ "\"«<eos>»" }}"#);
    assert_eq!(marked("<table></eos> < x"), "<table></eos> < x");
}

#[test]
fn beginnings_and_ends_that_a_template_may_join_are_marked() {
    let marked = |source: &str| tokens().mark_source(source, MARKS);
    assert_eq!(marked("{{ '<' ~ role ~ '>' }}<unused{{ n }}>"), "{{ '«<' ~ role ~ '>»' }}«<unused{{ n }}>»");
    assert_eq!(marked("{{ '<%s>' % x }}{{ '<\\n' }}"), "{{ '«<%s>»' % x }}{{ '«<\\n' }}");
    assert_eq!(marked("{{ '<es' ~ 'cape>' }}{{ '</think>' }}"), "{{ '«<es' ~ 'cape>»' }}{{ '</think>' }}");
}

#[test]
fn a_spelling_is_a_token_between_the_marks_only_and_is_cut_everywhere_else() {
    let rendered = "«<escape>»a<escape>b<es x«<e«os>«<eos»>»<eos>»«<eos>";
    let text = "<escape>a<escape>b<es x<eos><eos><eos><eos>";
    let expected = Rendered { text: text.into(), cuts: vec![10, 24, 34, 39], tokens: vec![(0, 8), (28, 33)] };
    assert_eq!(tokens().unmark(rendered, MARKS), expected);
}

#[test]
fn a_token_that_what_follows_would_make_longer_is_cut_off() {
    let tokens = ControlTokens::new([("<a>", true), ("<a><b>", true)]).unwrap();
    let rendered = tokens.unmark("«<a>»<b>", MARKS);
    assert_eq!((rendered.cuts, rendered.tokens), (vec![3], vec![(0, 3)]));
}

#[test]
fn the_marks_are_characters_that_the_row_does_not_have() {
    let used = [json!({"\u{fdd0}": "\u{fdd3}"})];
    assert_eq!(tokens().choose_marks(&[&used, &[]]).unwrap(), 2);
    assert_eq!(Marks::pair(2), Marks { open: '\u{fdd4}', close: '\u{fdd5}' });
    assert_eq!(Marks::pair(MARK_PAIRS - 1).close, '\u{fdef}');
    let all: String = ('\u{fdd0}'..='\u{fdef}').collect();
    assert!(tokens().choose_marks(&[&[json!(all)]]).is_err());
}
