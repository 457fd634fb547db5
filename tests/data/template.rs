//! Chat templates against texts rendered by jinja2 and against what transformers does around it.

use std::collections::BTreeMap;

use engine::chat::FUNCTIONGEMMA_TEMPLATE;
use engine::chat::functiongemma::tokens;
use engine::chat::template::{ChatTemplate, SpecialTokens, load_special_tokens};
use engine::data::RowContent;
use engine::data::tools::DROPPED_PROPERTIES;
use serde_json::{Value, json};

use crate::{json_lines, list, tutorial_rows};

pub fn special_tokens() -> SpecialTokens {
    BTreeMap::from([("bos_token".into(), "<bos>".into()), ("eos_token".into(), "<eos>".into())])
}

fn ours() -> ChatTemplate {
    ChatTemplate::from_source(FUNCTIONGEMMA_TEMPLATE, special_tokens()).unwrap()
}

fn jinja(source: &str, messages: &Value) -> String {
    let template = ChatTemplate::from_source(source, special_tokens()).unwrap();
    template.render(messages.as_array().unwrap(), &[], false).unwrap()
}

/// Renders every case and compares with its `expected`; null means that the template must refuse.
pub fn check_cases(name: &str, template: &ChatTemplate, cases: &[Value]) {
    assert!(cases.len() > 20);
    for (i, case) in cases.iter().enumerate() {
        let generate = case["add_generation_prompt"].as_bool().unwrap();
        let rendered = template.render(list(case, "messages"), list(case, "tools"), generate);
        assert_eq!(rendered.ok().as_deref(), case["expected"].as_str(), "{name}, case {i}: {case}");
    }
}

#[test]
fn our_template_reproduces_the_golden_cases_to_the_byte() {
    check_cases("our template", &ours(), &json_lines("template_golden.jsonl"));
}

#[test]
fn our_template_reproduces_random_chats_and_refuses_what_googles_template_refuses() {
    check_cases("our template", &ours(), &json_lines("template_random.jsonl"));
}

#[test]
fn our_template_reproduces_the_tutorial_rows() {
    let template = ours();
    let (rows, golden) = (tutorial_rows(), json_lines("simple_tool_calling_golden.jsonl"));
    assert_eq!((rows.len(), golden.len()), (40, 40));
    for (row, golden) in rows.iter().zip(&golden) {
        let RowContent::Chat { messages, tools, .. } = &row.content else { panic!("{} is not a chat", row.origin) };
        assert_eq!(
            template.render(messages, tools, false).unwrap(),
            golden["text"].as_str().unwrap(),
            "{}",
            row.origin
        );
    }
}

#[test]
fn the_template_writes_only_control_tokens_of_the_table_and_drops_the_properties_of_which_users_are_warned() {
    let written = FUNCTIONGEMMA_TEMPLATE.split('<').skip(1).filter_map(|rest| rest.split_once('>'));
    let written: Vec<String> = written.map(|(name, _)| format!("<{name}>")).collect();
    assert!(written.len() > 20);
    assert_eq!(written.iter().find(|token| !tokens::ALL.contains(&token.as_str())), None);
    let dropped = format!("not in ['{}']", DROPPED_PROPERTIES.join("', '"));
    assert_eq!(FUNCTIONGEMMA_TEMPLATE.matches("not in [").count(), 1);
    assert!(FUNCTIONGEMMA_TEMPLATE.contains(&dropped), "{dropped}");
}

#[test]
fn a_template_that_raises_is_an_error_with_its_message() {
    let template = ChatTemplate::from_source("a\n{{ raise_exception('no system role') }}", special_tokens()).unwrap();
    let error = template.render(&[json!({"role": "user"})], &[], false).unwrap_err().report();
    assert!(error.contains("no system role") && error.contains("line 2"), "{error}");
}

#[test]
fn a_template_with_a_syntax_error_is_refused_on_loading() {
    assert!(ChatTemplate::from_source("{% if %}", special_tokens()).is_err());
}

#[test]
fn values_print_as_python_prints_them() {
    let messages = json!([null, true, 1.0, 1e20, 1e-7, ["a'b", {"k": null}]]);
    let printed = jinja("{% for m in messages %}{{ m }};{% endfor %}", &messages);
    assert_eq!(printed, r#"None;True;1.0;1e+20;1e-07;["a'b", {'k': None}];"#);
    assert_eq!(jinja("{{ messages[0] | upper }}", &json!([["string", null]])), "['STRING', NONE]");
}

#[test]
fn tojson_writes_what_json_dumps_writes() {
    let messages = json!([{"ü": [1, 2.0, "</a>\n"], "e": {}}]);
    assert_eq!(jinja("{{ messages[0] | tojson }}", &messages), r#"{"ü": [1, 2.0, "</a>\n"], "e": {}}"#);
    let indented = "{\n  \"ü\": [\n    1,\n    2.0,\n    \"</a>\\n\"\n  ],\n  \"e\": {}\n}";
    assert_eq!(jinja("{{ messages[0] | tojson(indent=2) }}", &messages), indented);
}

#[test]
fn dictsort_ignores_case_beyond_ascii_and_keeps_the_order_of_equal_keys() {
    let messages = json!([{"b": 1, "ä": 2, "Ä": 3, "Z": 4, "a": 5, "A": 6}]);
    let source = "{% for k, v in messages[0] | dictsort %}{{ k }}{{ v }} {% endfor %}";
    assert_eq!(jinja(source, &messages), "a5 A6 b1 Z4 ä2 Ä3 ");
}

#[test]
fn whitespace_generation_tags_loop_controls_and_python_methods_work_as_in_transformers() {
    let source = "{%- for m in messages %}\n    {%- generation %}\n{{ m.strip() }}\n    {%- endgeneration %}\n    \
                  {% if loop.index == 2 %}{% break %}{% endif %}\n{%- endfor %}\nend\n";
    assert_eq!(jinja(source, &json!([" a ", "b", "c"])), "abend");
    assert_eq!(jinja("{{ strftime_now('%Y') | int > 2000 }} {{ eos_token }}", &json!([1])), "True <eos>");
}

#[test]
fn every_end_of_a_line_of_a_template_is_a_line_feed_and_those_of_messages_stay() {
    let source = "{% for m in messages %}\r\n{{ m }}\r\n  {% if loop.last %}\r\nlast\rline{{ '\r\n' }}|{{ '\\r' }}{% endif %}\r\n\
                  {% endfor %}\r\nend\r\n";
    assert_eq!(jinja(source, &json!(["a\r\nb"])), "a\r\nb\nlast\nline\n|\rend");
}

#[test]
fn strip_takes_what_pythons_strip_takes_as_a_filter_and_as_a_method() {
    let messages = json!(["\u{1f}\u{a0} a\u{200b} \u{1c}"]);
    for trimmed in ["{{ messages[0].strip() }}", "{{ messages[0] | trim }}", "{{ messages[0].lstrip().rstrip() }}"] {
        assert_eq!(jinja(trimmed, &messages), "a\u{200b}", "{trimmed}");
    }
}

#[test]
fn an_attribute_of_something_undefined_is_an_error_as_in_jinja2() {
    let template = ChatTemplate::from_source("{{ messages[0]['x']['y'] }}", special_tokens()).unwrap();
    assert!(template.render(&[json!({"role": "user"})], &[], false).is_err());
    let template = ChatTemplate::from_source("[{{ messages[0]['x'] }}]", special_tokens()).unwrap();
    assert_eq!(template.render(&[json!({"role": "user"})], &[], false).unwrap(), "[]");
}

#[test]
fn the_template_file_wins_over_the_tokenizer_config_and_our_own_template_comes_last() {
    let folder = tempfile::tempdir().unwrap();
    let load = || ChatTemplate::load(folder.path(), special_tokens()).unwrap();
    let render =
        |template: &ChatTemplate| template.render(&[json!({"role": "user", "content": "x"})], &[], false).unwrap();
    assert_eq!(render(&load()), "<bos><start_of_turn>user\nx<end_of_turn>\n");
    assert_eq!(load().source(), FUNCTIONGEMMA_TEMPLATE);
    let config = folder.path().join("tokenizer_config.json");
    std::fs::write(&config, json!({"chat_template": "from config"}).to_string()).unwrap();
    assert_eq!(render(&load()), "from config");
    let named = json!([{"name": "tool_use", "template": "other"}, {"name": "default", "template": "named"}]);
    std::fs::write(&config, json!({"chat_template": named}).to_string()).unwrap();
    assert_eq!(render(&load()), "named");
    std::fs::write(folder.path().join("chat_template.jinja"), "from file").unwrap();
    assert_eq!(render(&load()), "from file");
    assert_eq!(load().source(), "from file");
}

#[test]
fn special_tokens_are_read_as_strings_and_as_objects() {
    let folder = tempfile::tempdir().unwrap();
    let map = json!({"bos_token": {"content": "<b>", "lstrip": false}, "eos_token": "<old>"});
    std::fs::write(folder.path().join("special_tokens_map.json"), map.to_string()).unwrap();
    let config = json!({"eos_token": "<e>", "add_bos_token": true, "sfr_token": "<r>"});
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let tokens = load_special_tokens(folder.path()).unwrap();
    let pairs: Vec<_> = tokens.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    assert_eq!(pairs, [("bos_token", "<b>"), ("eos_token", "<e>"), ("sfr_token", "<r>")]);
}

#[test]
fn the_deepest_schema_that_json_allows_renders_or_fails_without_a_crash() {
    let mut schema = json!({"type": "string"});
    for _ in 0..50 {
        schema = json!({"type": "object", "properties": {"p": schema}});
    }
    let tool = json!({"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}});
    let _ = ours().render(&[json!({"role": "user", "content": "x"})], &[tool], false);
}
