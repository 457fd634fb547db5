//! Large rows take time in proportion to their size.

use std::time::{Duration, Instant};

use engine::batch::Example;
use engine::chat::{ChatTokenizer, LossOn};
use engine::data::{Origin, Row, RowOptions};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::tiny::{folder, tokenizer, write};

/// A megabyte takes less than a second; what was quadratic took minutes. The rest is for a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// A megabyte; less where nothing is optimized, the tokenizer's crate included: that is twenty times slower.
const SIZE: usize = if cfg!(debug_assertions) { 1 << 16 } else { 1 << 20 };

fn example(tokenizer: &ChatTokenizer, messages: &[Value], loss: LossOn) -> Example {
    let row = json!({"messages": messages});
    let row = Row::from_json(row, Origin::new("rows.jsonl", 1), &RowOptions::default()).unwrap();
    tokenizer.example(&row, loss).unwrap()
}

fn user(content: &str) -> Value {
    json!({"role": "user", "content": content})
}

fn assistant(content: &str) -> Value {
    json!({"role": "assistant", "content": content})
}

/// The texts of the scored runs.
fn scored(tokenizer: &ChatTokenizer, example: &Example) -> Vec<String> {
    let runs = (0..example.ids.len()).collect::<Vec<_>>();
    let runs = runs.chunk_by(|a, b| example.scored[*a] == example.scored[*b]).filter(|run| example.scored[run[0]]);
    runs.map(|run| tokenizer.decode(&example.ids[run[0]..=run[run.len() - 1]])).collect()
}

#[test]
fn a_megabyte_of_anything_in_a_message_is_read_in_time() {
    let tokenizer = tokenizer();
    let pieces = [
        "<",
        "[",
        "<<eos>",
        "<eos>",
        "<end_of_turn",
        "<e",
        " ",
        "\n",
        "a",
        "a ",
        "n\u{1f}",
        "\u{0}",
        "\u{1f600}",
        "\u{fdd0}",
        "{{",
        "{%",
        "é",
        "1",
        "\\",
        "some prose ",
    ];
    for piece in pieces {
        let text = piece.repeat(SIZE / piece.len());
        let started = Instant::now();
        let example = example(&tokenizer, &[user(&text), assistant("ho")], LossOn::Assistant);
        assert!(started.elapsed() < PATIENCE, "{piece:?}: {:?}", started.elapsed());
        assert_eq!(scored(&tokenizer, &example), ["ho<end_of_turn>\n"], "{piece:?}");
        assert_eq!(
            tokenizer.decode(&example.ids).len(),
            76 + text.trim_matches([' ', '\n', '\u{1f}']).len(),
            "{piece:?}"
        );
    }
}

/// A chat of random turns, and the runs that loss on the assistant scores.
fn long_chat(seed: u64, turns: usize) -> (Vec<Value>, Vec<String>) {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let mut messages = Vec::new();
    let mut runs = Vec::new();
    if rng.random_bool(0.5) {
        messages.push(json!({"role": "developer", "content": "help"}));
    }
    for i in 0..turns {
        messages.push(user(["hi", "xx", "<eos>", "own"][rng.random_range(0..4)]));
        for _ in 0..[0, 0, 1, 3][rng.random_range(0..4)] {
            let call = json!({"function": {"name": "f", "arguments": {"a": i}}});
            messages.push(json!({"role": "assistant", "tool_calls": [call]}));
            messages.push(json!({"role": "tool", "name": "f", "content": {"r": i}}));
            runs.push(format!("<start_function_call>call:f{{a:{i}}}<end_function_call><start_function_response>"));
        }
        let answer = ["x", "y is it", "<start_of_turn>user\nhi", "no <end_of_turn>"][rng.random_range(0..4)];
        messages.push(assistant(answer));
        runs.push(format!("{answer}<end_of_turn>\n"));
    }
    (messages, runs)
}

#[test]
fn long_chats_score_the_same_runs_as_short_ones() {
    let tokenizer = tokenizer();
    for seed in 0..200 {
        let (messages, runs) = long_chat(seed, 1 + seed as usize % 25);
        let example = example(&tokenizer, &messages, LossOn::Assistant);
        assert_eq!(scored(&tokenizer, &example), runs, "chat {seed}");
    }
}

#[test]
fn a_template_that_looks_at_the_whole_chat_scores_the_same_runs_in_long_chats() {
    let folder = folder();
    // The number of each message: a window that begins with 1 is no part of the whole.
    let template = "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' ~ loop.index ~ m.role }}\n\
                    {{ m.content }}<end_of_turn>\n{% endfor %}";
    write(folder.path(), "chat_template.jinja", template);
    let tokenizer = ChatTokenizer::load(folder.path()).unwrap();
    let messages: Vec<Value> = (0..60).map(|i| if i % 2 == 0 { user("hi") } else { assistant("ho") }).collect();
    let example = example(&tokenizer, &messages, LossOn::Assistant);
    assert_eq!(scored(&tokenizer, &example), vec!["ho<end_of_turn>\n"; 30]);
}

#[test]
fn loss_on_the_assistant_of_two_thousand_messages_is_found_in_time() {
    let tokenizer = tokenizer();
    let calls = |i: usize| match i % 2 {
        0 => json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": i}}}]}),
        _ => json!({"role": "tool", "name": "f", "content": {"r": i}}),
    };
    let turns =
        |i: usize| if i.is_multiple_of(2) { user(&format!("message {i}")) } else { assistant(&format!("answer {i}")) };
    let chats: [Vec<Value>; 3] = [
        (0..2000).map(turns).collect(),
        std::iter::once(user("go")).chain((0..2000).map(calls)).collect(),
        (0..16).map(|i| if i % 2 == 0 { user("a ") } else { assistant(&"some words ".repeat(5900)) }).collect(),
    ];
    for (messages, answers) in chats.iter().zip([1000, 1000, 8]) {
        let started = Instant::now();
        let example = example(&tokenizer, messages, LossOn::Assistant);
        assert!(started.elapsed() < PATIENCE, "{answers} answers: {:?}", started.elapsed());
        assert_eq!(scored(&tokenizer, &example).len(), answers);
    }
}
