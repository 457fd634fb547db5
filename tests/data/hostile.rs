//! Templates and tokenizer files from an attacker: an error in reasonable time, never a crash, a hang or all the memory.

use std::time::{Duration, Instant};

use engine::chat::template::ChatTemplate;
use engine::chat::tokenizer_file::TokenizerFile;
use engine::chat::{ChatTokenizer, LossOn};
use engine::data::{Origin, Row, RowOptions};
use serde_json::{Value, json};

use crate::template::special_tokens;
use crate::tiny::{folder, tokenizer_json, write};

/// Far above what any of these takes, far below what they took: minutes, or all memory.
const PATIENCE: Duration = Duration::from_secs(30);

fn render(source: &str) -> Result<String, String> {
    let started = Instant::now();
    let messages = [json!({"role": "user", "content": "hi"})];
    let template = ChatTemplate::from_source(source, special_tokens());
    let result = template.and_then(|template| template.render(&messages, &[], true)).map_err(|error| error.report());
    assert!(started.elapsed() < PATIENCE, "{:?} for {:.80}", started.elapsed(), source);
    result
}

fn refused(source: &str) -> String {
    match render(source) {
        Ok(text) => panic!("{} bytes of text from {:.80}", text.len(), source),
        Err(report) => report,
    }
}

#[test]
fn loops_without_end_run_out_of_fuel() {
    let digits = "{% for a in range(9999) %}";
    assert!(refused(&(digits.repeat(4) + &"{% endfor %}".repeat(4))).contains("far more work"));
    refused("{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}");
    refused("{% for a in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}");
    refused("{% include 'chat_template' %}");
    refused("{% import 'chat_template' as x %}");
}

#[test]
fn strings_that_grow_without_end_are_refused() {
    refused("{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}");
    refused("{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}");
    refused("{{ 'a' * 99999999999 }}");
    refused("{{ [1] * 99999999999 }}");
    refused("{{ range(99999999999) | list }}");
    refused("{{ ('a' * 999999).replace('', 'b' * 999999) }}");
    refused("{{ ('a' * 999999) | replace('a', 'b' * 999999) }}");
    refused("{{ ('b' * 999999).join('a' * 999999) }}");
    refused("{{ (['a'] * 99999) | join('b' * 999999) }}");
    assert!(refused("{% for i in range(9999) %}{{ 'a' * 99999 }}{% endfor %}").contains("far more text"));
}

#[test]
fn widths_and_indents_of_absurd_size_are_refused() {
    refused("{{ 'a' | indent(100000000000) }}{{ 'a\nb' | indent(100000000000) }}");
    refused("{{ '%100000000000d' | format(1) }}");
    refused("{{ '%.100000000000f' | format(1.5) }}");
    refused("{{ '%*d' | format(100000000000, 1) }}");
    refused("{{ '{:100000000000}'.format(1) }}");
    refused("{{ '{:.100000000000f}'.format(1.5) }}");
    refused("{{ '{:{}}'.format(1, 100000000000) }}");
    refused("{{ [[1]] | tojson(indent=18446744073709551615) }}");
    refused("{{ [[1]] | tojson(indent=100000000000) }}");
    refused("{{ [1] | batch(100000000000, 1) | list }}");
    refused("{{ [1] | slice(100000000000, 1) | list }}");
    refused("{{ strftime_now('%1000000000d') * 99999999 }}");
}

#[test]
fn values_that_hold_themselves_or_are_very_deep_crash_nothing() {
    let own = "{% set ns = namespace() %}{% set ns.x = ns %}";
    for end in
        ["{{ ns }}", "{{ ns ~ 'a' }}", "{{ ns | tojson }}", "{{ [ns] | string }}", "{{ debug() }}", "{{ ns | pprint }}"]
    {
        let _ = render(&format!("{own}{end}"));
    }
    let pair = "{% set a = namespace() %}{% set b = namespace() %}{% set a.x = [a.items()] %}{% set b.x = [b.items()] %}\
                {% set a.y = {'k': a} %}{% set b.y = {'k': b} %}{% set a.z = a.values() %}{% set b.z = b.values() %}";
    for end in [
        "{{ a == b }}",
        "{{ [a, b] | sort }}",
        "{{ [a, b] | unique | list }}",
        "{{ a in [b] }}",
        "{{ a | items | list }}",
    ] {
        let _ = render(&format!("{pair}{end}"));
    }
    for grown in ["[ns.x]", "{'a': ns.x}", "(ns.x, 1)", "[ns.x, ns.x]", "ns.x | batch(1)", "[ns.x] | map('list')"] {
        refused(&format!(
            "{{% set ns = namespace(x=[1]) %}}{{% for i in range(99999) %}}{{% set ns.x = {grown} %}}{{% endfor %}}"
        ));
    }
    let chain = "{% set a = [a] %}".repeat(4000);
    let other = chain.replace('a', "b");
    for end in
        ["{{ a }}", "{{ a == b }}", "{{ a | tojson }}", "{{ a ~ b }}", "{{ [a, b] | sort }}", "{{ [a, b] | unique }}"]
    {
        let _ = render(&format!("{chain}{}{end}", other.replace("bl", "al")));
    }
}

#[test]
fn sources_that_nest_too_deep_for_a_compiler_are_refused() {
    let deep = |open: &str, inner: &str, close: &str| format!("{}{inner}{}", open.repeat(23_000), close.repeat(23_000));
    refused(&format!("{{{{ {} }}}}", deep("-", "1", "")));
    refused(&format!("{{{{ {} }}}}", deep("not ", "1", "")));
    refused(&format!("{{{{ {} }}}}", deep("(", "1", ")")));
    refused(&format!("{{{{ {} }}}}", deep("[", "1", "]")));
    refused(&format!("{{{{ {} }}}}", deep("{1:", "1", "}")));
    refused(&format!("{{{{ {} }}}}", deep("1 + ", "1", "")));
    refused(&format!("{{{{ {} }}}}", deep("1 if 1 else ", "1", "")));
    refused(&format!("{{{{ {} }}}}", deep("", "a", ".a")));
    refused(&format!("{{{{ {} }}}}", deep("", "a", "|list")));
    refused(&format!("{{{{ {} }}}}", deep("", "a", "()")));
    refused(&format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(20_000)));
    refused(&deep("{% if 1 %}", "", "{% endif %}"));
    refused(&deep("{% for a in b %}", "", "{% endfor %}"));
    refused(&" ".repeat(2 << 20));
    // As deep as is let through.
    let _ = render(&format!("{{{{ {}1 }}}}", "-".repeat(1900)));
    let _ = render(&format!("{{{{ a{} }}}}", "|list".repeat(900)));
    let _ = render(&format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(4900)));
}

#[test]
fn what_known_templates_do_stays_within_the_limits() {
    // A chat of 1,000 messages under a template that looks at all of them for each, and one that gathers them.
    let messages: Vec<Value> = (0..1000).map(|i| json!({"role": "user", "content": format!("message {i}")})).collect();
    let render =
        |source: &str| ChatTemplate::from_source(source, special_tokens()).unwrap().render(&messages, &[], true);
    let pairs = "{% for m in messages %}{% for n in messages %}{% if m == n %}{{ m.content }}{% endif %}{% endfor %}{% endfor %}";
    assert!(render(pairs).unwrap().ends_with("message 999"));
    let gathered = "{% set ns = namespace(all=[]) %}{% for m in messages %}{% set ns.all = ns.all + [m] %}{% endfor %}{{ ns.all | length }}";
    assert_eq!(render(gathered).unwrap(), "1000");
    let text = "a".repeat(10 << 20);
    let template =
        ChatTemplate::from_source("{{ messages[0].content | trim | upper | tojson }}", special_tokens()).unwrap();
    assert_eq!(template.render(&[json!({"content": text})], &[], true).unwrap().len(), text.len() + 2);
    let long = "{% if messages %}{{ 'x' }}{% endif %}\n".repeat(2000);
    assert_eq!(crate::hostile::render(&long).unwrap().len(), 2000);
}

/// The tiny tokenizer's file with other values at the top.
fn tokenizer_with(changes: Value) -> Value {
    let mut file: Value = serde_json::from_str(&tokenizer_json()).unwrap();
    changes.as_object().unwrap().iter().for_each(|(key, value)| file[key] = value.clone());
    file
}

fn chat_ids(file: &Value, content: &str) -> engine::error::Result<Vec<u32>> {
    let folder = folder();
    write(folder.path(), "tokenizer.json", &file.to_string());
    let row = json!({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "ho"}]});
    let row = Row::from_json(row, Origin::new("rows.jsonl", 1), &RowOptions::default()).unwrap();
    Ok(ChatTokenizer::load(folder.path())?.example(&row, LossOn::All)?.ids)
}

#[test]
fn truncation_and_padding_of_the_file_are_not_obeyed() {
    let plain = chat_ids(&tokenizer_with(json!({})), "hi").unwrap();
    let truncation = |length: u64, stride: u64| json!({"direction": "Right", "max_length": length, "strategy": "LongestFirst", "stride": stride});
    let padding = |strategy: Value| json!({"strategy": strategy, "direction": "Right", "pad_to_multiple_of": 64, "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"});
    let changes = [
        json!({"truncation": truncation(8, 0)}),
        json!({"truncation": truncation(8, 900)}),
        json!({"truncation": truncation(0, 0)}),
        json!({"padding": padding(json!({"Fixed": 64}))}),
        json!({"padding": padding(json!({"Fixed": 1u64 << 60}))}),
        json!({"padding": padding(json!("BatchLongest"))}),
        json!({"padding": padding(json!({"Fixed": 64})), "truncation": truncation(8, 0)}),
    ];
    for change in changes {
        assert_eq!(chat_ids(&tokenizer_with(change.clone()), "hi").ok().as_ref(), Some(&plain), "{change}");
    }
}

#[test]
fn tokenizers_that_multiply_text_are_refused() {
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let long = "b".repeat(1 << 20);
    let doubling = vec![replace(json!({"String": "h"}), "hh"); 40];
    let bos = json!({"SpecialToken": {"id": "<bos>", "type_id": 0}});
    let bos_ids = vec![2; 2000];
    let changes = [
        json!({"normalizer": replace(json!({"String": "h"}), &long)}),
        json!({"normalizer": replace(json!({"Regex": ""}), &long)}),
        json!({"normalizer": {"type": "Sequence", "normalizers": doubling}}),
        json!({"normalizer": {"type": "Prepend", "prepend": long}}),
        json!({"decoder": replace(json!({"String": "h"}), &long)}),
        json!({"post_processor": {"type": "TemplateProcessing", "single": vec![bos.clone(); 2000], "pair": [],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}}}}),
        json!({"post_processor": {"type": "TemplateProcessing", "single": [bos], "pair": [],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": bos_ids, "tokens": vec!["<bos>"; 2000]}}}}),
    ];
    for change in changes {
        let refused = TokenizerFile::from_json(&tokenizer_with(change.clone()).to_string());
        assert!(refused.is_err(), "{:.200}", change.to_string());
    }
}

#[test]
fn a_panic_of_the_tokenizers_code_is_an_error() {
    // Pieces of length 0: the crate divides by it.
    let change = json!({"pre_tokenizer": {"type": "FixedLength", "length": 0}});
    assert!(chat_ids(&tokenizer_with(change), "hi").is_err());
}

#[test]
fn a_control_token_that_the_normalizer_makes_of_other_text_is_an_error() {
    let mut file = tokenizer_with(json!({"normalizer": {"type": "NFKC"}}));
    let tokens = file["added_tokens"].as_array_mut().unwrap();
    tokens
        .iter_mut()
        .filter(|token| token["content"] == "<escape>")
        .for_each(|token| token["normalized"] = true.into());
    let report = chat_ids(&file, "＜escape＞").unwrap_err().report();
    assert!(report.contains("`<escape>`"), "{report}");
    assert!(chat_ids(&file, "escape").is_ok());
}
