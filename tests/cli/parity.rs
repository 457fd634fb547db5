//! `engine parity`: what differs is shown token by token, and the exit code says whether anything does.

use std::fs;

use serde_json::{Value, json};

use crate::{Run, folder_with, path, quickstart, run};

/// `engine parity` of `rows` with the quickstart's model, against its own template as `change` leaves it.
fn parity(rows: &str, change: impl Fn(&str) -> String, extra: &[&str]) -> Run {
    let own = fs::read_to_string(quickstart().join("model/chat_template.jinja")).unwrap();
    let (_folder, against) = folder_with("other.jinja", &change(&own));
    let [model, tools] = ["model", "tools.json"].map(|name| path(&quickstart().join(name)));
    let flags = ["parity", "--model", &model, "--tools", &tools, "--dataset", rows, "--against", &against];
    run(&[&flags[..], extra].concat())
}

/// The quickstart's 20 rows: a prompt and an answer each.
fn train_rows() -> String {
    path(&quickstart().join("train.jsonl"))
}

/// `template` with `from`, which it must hold, replaced.
fn replaced(template: &str, from: &str, to: &str) -> String {
    assert!(template.contains(from), "the template has no {from}");
    template.replace(from, to)
}

fn without_bos(template: &str) -> String {
    replaced(template, "{{- bos_token -}}", "")
}

#[test]
fn the_same_template_is_equal_and_ends_with_0() {
    let same = parity(&train_rows(), |own| format!("{{#- the same -#}}\n{own}"), &[]);
    assert_eq!(same.code, 0, "{}", same.stderr);
    assert_eq!(same.stdout, "prompts: 20 of 20 equal\nconversations: 20 of 20 equal\n");
}

#[test]
fn a_missing_token_is_shown_between_its_neighbours_and_ends_with_1() {
    let other = parity(&train_rows(), without_bos, &[]);
    assert_eq!(other.code, 1, "{}", other.stderr);
    let (head, rest) = other.stdout.split_once('\n').unwrap();
    assert!(head.contains("train.jsonl:1, prompt: ") && head.contains("the other one (+)"), "{head}");
    let lines: Vec<&str> = rest.lines().take(6).collect();
    let fields = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(fields(lines[0]), ["model", "other", "id", "text"]);
    assert_eq!(fields(lines[1]), ["-", "0", "2", "<bos>"]);
    // Both indices, then the id that the tiny tokenizer has for it.
    assert_eq!(fields(lines[2])[..2], ["1", "0"]);
    assert!(lines[2].ends_with("  <start_of_turn>"), "{}", lines[2]);
    assert_eq!((fields(lines[4])[..2].join(" "), lines[5]), ("3 2".into(), ""), "three neighbours are enough");
    assert!(other.stdout.contains("17 more prompts with differences; `--all` shows them\n"), "{}", other.stdout);
    assert!(other.stdout.ends_with("prompts: 0 of 20 equal\nconversations: 0 of 20 equal\n"), "{}", other.stdout);
    assert!(other.stderr.contains("error: 40 of 40 texts differ"), "{}", other.stderr);
    let all = parity(&train_rows(), without_bos, &["--all"]);
    assert_eq!(all.stdout.matches("  <bos>\n").count(), 40);
}

#[test]
fn what_only_training_sees_differs_in_conversations_alone() {
    let no_response = |own: &str| replaced(own, "'<start_function_response>' if loop.last", "''");
    let other = parity(&train_rows(), no_response, &["--log-format", "json"]);
    assert_eq!(other.code, 1, "{}", other.stderr);
    let records: Vec<Value> = other.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 21);
    let (result, differences) = records.split_last().unwrap();
    let expected =
        json!({"type": "result", "prompts": {"equal": 20, "total": 20}, "conversations": {"equal": 0, "total": 20}});
    assert_eq!(*result, expected);
    for difference in differences {
        let (length, parts) = (&difference["model_tokens"], &difference["differences"]);
        assert_eq!((&difference["type"], &difference["part"]), (&json!("difference"), &json!("conversation")));
        assert_eq!(difference["other_tokens"].as_u64().unwrap() + 1, length.as_u64().unwrap());
        assert_eq!(parts.as_array().unwrap().len(), 1);
        assert_eq!(parts[0]["model"]["start"], difference["other_tokens"], "it is the last token");
        assert_eq!(parts[0]["model"]["tokens"][0]["text"], "<start_function_response>");
        assert_eq!(parts[0]["other"]["tokens"], json!([]));
    }
}

#[test]
fn every_answer_of_a_chat_has_its_prompt_and_a_refusal_is_a_difference() {
    let user = |text: &str| json!({"role": "user", "content": text});
    let answer = |text: &str| json!({"role": "assistant", "content": text});
    let two = json!({"messages": [user("a"), answer("b"), user("c"), answer("d")]});
    let open = json!({"messages": [user("a")]});
    // No prompt, and one that is still to be answered.
    let started = json!({"messages": [answer("a")]});
    let greeted = json!({"messages": [answer("a"), user("b")]});
    let (_folder, rows) = folder_with("rows.jsonl", &format!("{two}\n{open}\n{started}\n{greeted}\n"));
    let same = parity(&rows, str::to_owned, &[]);
    assert_eq!(same.stdout, "prompts: 4 of 4 equal\nconversations: 3 of 3 equal\n", "{}", same.stderr);
    let refuses = parity(&rows, |_| "{{ raise_exception('not \x1b[2J served') }}".into(), &["--all"]);
    assert_eq!(refuses.code, 1);
    assert!(refuses.stdout.contains("rows.jsonl:1, turn 2 of 2, prompt: "), "{}", refuses.stdout);
    assert_eq!(refuses.stdout.matches("the other one refuses: ").count(), 7, "{}", refuses.stdout);
    assert!(refuses.stdout.contains("not \\u{1b}[2J served"), "{}", refuses.stdout);
}

#[test]
fn a_template_that_is_none_is_a_usage_error_and_plain_text_has_none() {
    let broken = parity(&train_rows(), |_| "{% if %}".into(), &[]);
    assert_eq!(broken.code, 2, "{}", broken.stderr);
    assert!(broken.stderr.contains("other.jinja") && broken.stdout.is_empty(), "{}", broken.stderr);
    let (_folder, text) = folder_with("rows.jsonl", "{\"text\": \"once\"}\n");
    let plain = parity(&text, str::to_owned, &[]);
    assert_eq!((plain.code, plain.stdout.as_str()), (1, ""), "{}", plain.stderr);
    assert!(plain.stderr.contains("has no chat"), "{}", plain.stderr);
}
