//! The pretraining chats: the same for the same seed, and nothing of the quickstart in them.

use serde_json::Value;

use crate::chats::{Part, write_chats};
use crate::phrase::expand;
use crate::pool::Pool;
use crate::rows;

const ROWS: usize = 4_000;
const GROUP: usize = 8;

fn chats(seed: u64) -> Vec<Value> {
    write_chats(&Pool::load().expect("word lists"), Part::General, seed, ROWS, GROUP)
}

/// What the user says, and what the assistant answers first.
fn turns(row: &Value) -> (&str, &Value) {
    (row["messages"][1]["content"].as_str().expect("a user turn"), &row["messages"][2])
}

#[test]
fn the_same_seed_gives_the_same_chats_and_another_seed_others() {
    assert_eq!(chats(3)[..200], chats(3)[..200]);
    assert_ne!(chats(3)[..200], chats(4)[..200]);
}

#[test]
fn rows_of_a_group_declare_the_same_tools() {
    let rows = chats(1);
    assert_eq!(rows.len(), ROWS);
    for group in rows.chunks(GROUP) {
        assert!(group.iter().all(|row| row["tools"] == group[0]["tools"]));
    }
}

#[test]
fn no_tool_or_request_of_the_quickstart_occurs() {
    let pool = Pool::load().expect("word lists");
    for row in rows::read("train.jsonl").iter().chain(&rows::read("test.jsonl")) {
        assert!(pool.resembles_held_out(row["user_content"].as_str().expect("a prompt")), "{row}");
    }
    for row in chats(1) {
        let text = row.to_string().to_lowercase();
        assert!(!text.contains("minerva") && !text.contains("atlas"), "{text}");
        assert!(!pool.resembles_held_out(turns(&row).0), "{row}");
    }
}

#[test]
fn every_call_names_a_declared_tool_and_its_required_parameters() {
    let mut calls = 0;
    for row in chats(1) {
        let tools = row["tools"].as_array().expect("tools");
        for call in turns(&row).1["tool_calls"].as_array().into_iter().flatten() {
            let called = &call["function"];
            let tool = tools.iter().find(|tool| tool["function"]["name"] == called["name"]).expect("a declared tool");
            let parameters = &tool["function"]["parameters"];
            for name in parameters["required"].as_array().expect("a list") {
                assert!(!called["arguments"][name.as_str().expect("a name")].is_null(), "{row}");
            }
            for (name, value) in called["arguments"].as_object().expect("an object") {
                let kind = parameters["properties"][name]["type"].as_str().expect("a declared parameter");
                let fits = match kind {
                    "integer" => value.is_i64(),
                    "boolean" => value.is_boolean(),
                    _ => value.is_string(),
                };
                assert!(fits, "`{name}` is {kind}: {row}");
            }
            calls += 1;
        }
    }
    assert!(calls > ROWS / 2, "{calls} calls");
}

#[test]
fn chats_hold_refusals_parallel_calls_and_responses() {
    let rows = chats(1);
    let part = |holds: fn(&Value) -> bool| rows.iter().filter(|row| holds(row)).count() as f64 / ROWS as f64;
    assert!(part(|row| turns(row).1["content"].is_string()) > 0.08);
    assert!(part(|row| turns(row).1["tool_calls"].as_array().is_some_and(|calls| calls.len() > 1)) > 0.1);
    assert!(part(|row| row["messages"][3]["role"] == "tool") > 0.02);
}

#[test]
fn a_template_marks_arguments_and_never_repeats_a_blanks_words() {
    use rand::SeedableRng;
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let words = [("x".to_string(), vec!["one".to_string(), "two".to_string()])].into();
    for _ in 0..20 {
        let phrase = expand("put [a:{x}] on [b=true:{x}] for [me] or [you]", &words, &mut rng);
        let (first, second) = (&phrase.arguments[0].1, if phrase.arguments[0].1 == "one" { "two" } else { "one" });
        assert_eq!(phrase.text, format!("Put {first} on {second} for me or you"));
        assert_eq!(phrase.arguments[1], ("b".to_string(), "true".to_string()));
        assert_eq!(phrase.arguments[2], ("query".to_string(), "me you".to_string()));
    }
}
