//! The same promises on the real FunctionGemma tokenizer and Google's own template, which cannot be shipped.

use std::path::PathBuf;

use engine::chat::template::{ChatTemplate, load_special_tokens};
use engine::chat::{ChatTokenizer, LossOn};
use engine::data::{Origin, Row, RowOptions};
use serde_json::{Value, json};

use crate::template::check_cases;
use crate::{json_lines, tutorial_rows};

fn folder() -> PathBuf {
    std::env::var_os("ENGINE_TEST_MODEL")
        .expect("ENGINE_TEST_MODEL names a folder with the FunctionGemma checkpoint")
        .into()
}

fn ids(value: &Value) -> Vec<u32> {
    value["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
#[ignore = "needs ENGINE_TEST_MODEL: a folder with the FunctionGemma checkpoint"]
fn googles_template_reproduces_the_golden_and_the_random_cases() {
    let template = ChatTemplate::load(&folder(), load_special_tokens(&folder()).unwrap()).unwrap();
    assert_ne!(template.source(), engine::chat::FUNCTIONGEMMA_TEMPLATE);
    check_cases("Google's template", &template, &json_lines("template_golden.jsonl"));
    check_cases("Google's template", &template, &json_lines("template_random.jsonl"));
}

#[test]
#[ignore = "needs ENGINE_TEST_MODEL: a folder with the FunctionGemma checkpoint"]
fn the_tutorial_rows_have_the_ids_and_prompt_lengths_of_the_published_run() {
    let tokenizer = ChatTokenizer::load(&folder()).unwrap().with_model_vocab(262_144);
    let rows = tutorial_rows();
    let golden = json_lines("simple_tool_calling_golden.jsonl");
    assert_eq!((rows.len(), golden.len()), (40, 40));
    for (row, golden) in rows.iter().zip(&golden) {
        let example = tokenizer.example(row, LossOn::Completion).unwrap();
        let prompt = tokenizer.prompt(row).unwrap();
        let prompt_length = golden["prompt_len_tokens"].as_u64().unwrap() as usize;
        assert_eq!(example.ids, ids(golden), "{}", row.origin);
        assert_eq!(prompt.ids, example.ids[..prompt_length], "{}", row.origin);
        assert!((0..example.ids.len()).all(|t| example.scored[t] == (t >= prompt_length)), "{}", row.origin);
        assert_eq!(example.scored, tokenizer.example(row, LossOn::Assistant).unwrap().scored);
        assert_eq!(tokenizer.decode(&example.ids), golden["text"].as_str().unwrap());
    }
    let examples = tokenizer.examples(&rows[..20], LossOn::All).unwrap();
    assert_eq!(examples.iter().map(|example| example.ids.len()).sum::<usize>(), 3241);
}

#[test]
#[ignore = "needs ENGINE_TEST_MODEL: a folder with the FunctionGemma checkpoint"]
fn no_added_token_that_controls_can_be_smuggled_into_the_real_vocabulary() {
    let tokenizer = ChatTokenizer::load(&folder()).unwrap().with_model_vocab(262_144);
    let control = [
        "<escape>",
        "<end_of_turn>",
        "<eos>",
        "<unused6000>",
        "<image_soft_token>",
        "<start_of_image>",
        "[multimodal]",
    ];
    let chat = |content: &str| {
        let row = json!({"messages": [{"role": "user", "content": content}]});
        let row = Row::from_json(row, Origin::new("rows.jsonl", 1), &RowOptions::default()).unwrap();
        tokenizer.example(&row, LossOn::All).unwrap().ids
    };
    let empty = chat("");
    for text in control {
        let ids = chat(text);
        let added: Vec<u32> = ids[4..ids.len() - (empty.len() - 4)].to_vec();
        assert!(added.len() > 1, "{text}: {added:?}");
        assert_eq!(tokenizer.decode(&added), text);
    }
    let ordinary = "<table>\n\n\n\t\t<b>  two  spaces</b> 😀 a < b";
    let text = format!("<bos><start_of_turn>user\n{ordinary}<end_of_turn>\n");
    assert_eq!(chat(ordinary), tokenizer.encode_text(&text).unwrap());
}
