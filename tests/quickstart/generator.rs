//! The pretraining chats: the same for the same seed, and nothing of the quickstart in them.

use serde_json::Value;

use std::collections::HashSet;

use crate::chats::{Course, names, words_and_tools, write_chats, write_validation};
use crate::phrase::expand;
use crate::pool::Pool;
use crate::rows;
use crate::words::Words;

const ROWS: usize = 4_000;
const GROUP: usize = 8;

fn course(course: Course, seed: u64) -> Vec<Value> {
    write_chats(&Pool::load().expect("word lists"), course, seed, ROWS, GROUP)
}

fn chats(seed: u64) -> Vec<Value> {
    course(words_and_tools, seed)
}

fn words(text: &str) -> HashSet<String> {
    text.to_lowercase().split(|c: char| !c.is_alphanumeric()).map(str::to_string).collect()
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
fn the_second_course_asks_every_search_tool_that_does_not_say_over_what() {
    let rows = course(names, 1);
    assert_eq!(rows, course(names, 1));
    let called = |row: &Value| {
        let calls = turns(row).1["tool_calls"].as_array().into_iter().flatten();
        calls.map(|call| call["function"]["name"].to_string()).collect::<Vec<_>>()
    };
    let both = rows.iter().filter(|row| {
        let calls = called(row);
        calls.len() > 1 && calls.iter().collect::<HashSet<_>>().len() == calls.len()
    });
    let (both, all) = (both.count(), rows.len());
    assert!(both > all / 2, "{both} of {all}");
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
    for row in chats(1).into_iter().chain(course(names, 1)) {
        let text = row.to_string().to_lowercase();
        assert!(!text.contains("minerva") && !text.contains("atlas"), "{text}");
        assert!(!pool.resembles_held_out(turns(&row).0), "{row}");
    }
}

#[test]
fn every_query_of_the_test_rows_has_a_word_that_no_other_file_has() {
    let mut known: HashSet<String> = chats(1).iter().flat_map(|row| words(&row.to_string())).collect();
    for file in ["work", "world", "actions", "words"] {
        let path = format!("{}/examples/make_quickstart/{file}.toml", env!("CARGO_MANIFEST_DIR"));
        known.extend(words(&std::fs::read_to_string(&path).expect(&path)));
    }
    known.extend(rows::read("train.jsonl").iter().flat_map(|row| words(&row.to_string())));
    for row in rows::read("test.jsonl") {
        assert!(words(&rows::query(&row)).iter().any(|word| !known.contains(word)), "{row}");
    }
}

#[test]
fn validation_rows_copy_their_queries_and_resemble_no_row_of_the_quickstart() {
    let pool = Pool::load().expect("word lists");
    let validation = write_validation(&pool, 2, 200);
    assert_eq!(validation, write_validation(&pool, 2, 200));
    for row in &validation {
        let prompt = row["user_content"].as_str().expect("a prompt");
        assert!(prompt.contains(&rows::query(row)) && !pool.resembles_held_out(prompt), "{row}");
    }
    for name in rows::tool_names() {
        assert_eq!(validation.iter().filter(|row| row["tool_name"] == name.as_str()).count(), 100, "{name}");
    }
}

#[test]
fn the_words_of_a_search_are_the_users() {
    let mut searches = 0;
    for row in chats(1) {
        let (text, answer) = turns(&row);
        for call in answer["tool_calls"].as_array().into_iter().flatten() {
            for name in ["query", "q", "question", "text", "keywords"] {
                if let Some(words) = call["function"]["arguments"][name].as_str() {
                    assert!(text.to_lowercase().contains(&words.to_lowercase()), "{row}");
                    searches += 1;
                }
            }
        }
    }
    assert!(searches > ROWS / 4, "{searches} searches");
}

#[test]
fn the_first_rows_have_no_tools_and_repeat_the_users_words() {
    for row in &chats(1)[..ROWS / 10] {
        let (text, answer) = turns(row);
        assert_eq!(row["tools"], serde_json::json!([]), "{row}");
        assert!(text.contains(answer["content"].as_str().expect("words")), "{row}");
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
    let words = Words::new([("x".to_string(), vec!["one".to_string(), "two".to_string()])].into());
    for _ in 0..20 {
        let phrase = expand("put [a:{x}] on [b=true:{x}] for [me] or [you]", &words, false, &mut rng);
        let (first, second) = (&phrase.arguments[0].1, if phrase.arguments[0].1 == "one" { "two" } else { "one" });
        assert_eq!(phrase.text, format!("Put {first} on {second} for me or you"));
        assert_eq!(phrase.arguments[1], ("b".to_string(), "true".to_string()));
        assert_eq!(phrase.arguments[2], ("query".to_string(), "me you".to_string()));
    }
}

#[test]
fn made_up_words_keep_the_look_of_what_they_stand_for() {
    use rand::SeedableRng;
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let list = ["Anna Keller", "Priya Shah", "Maria Lopez", "Lars Olsen"].map(str::to_string);
    let words = Words::new([("person".to_string(), list.to_vec())].into());
    for _ in 0..100 {
        let name = words.disguise("Anna of room 12", &mut rng);
        let parts: Vec<&str> = name.split(' ').collect();
        let [first, "of", second, number] = parts[..] else { panic!("{name}") };
        assert!(first.starts_with(char::is_uppercase) && second.chars().all(|c| c.is_ascii_lowercase()), "{name}");
        assert!(number.parse::<u32>().is_ok_and(|number| number < 10_000), "{name}");
    }
}
