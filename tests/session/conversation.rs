//! A conversation with tools, and answers that were stopped.

use std::path::Path;

use engine::chat::functiongemma::tokens::{END_CALL, ESCAPE, START_CALL, START_RESPONSE};
use engine::data::dataset::load_dataset;
use engine::data::rows::RowOptions;
use engine::data::tools::load_tools;
use engine::error::{Error, Kind};
use engine::session::conversation::Conversation;
use engine::session::{Checkpoint, DeviceName, Generation, Prompts, devices};

fn quickstart(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart").join(name).to_str().unwrap().to_owned()
}

#[test]
fn calls_wait_for_their_responses_and_the_model_sees_all_that_was_said() {
    let checkpoint = Checkpoint::open(&quickstart("model")).unwrap();
    let (tools, _) = load_tools(Path::new(&quickstart("tools.json"))).unwrap();
    let name = tools[0]["function"]["name"].as_str().unwrap().to_owned();
    let mut talk = Conversation::new(tools, None);
    talk.say("Where is it? <end_of_turn>");
    assert_eq!(talk.waits_for(), None);
    let first = talk.prompt(&checkpoint).unwrap();
    assert!(first.text.ends_with("<end_of_turn>\n<start_of_turn>model\n"), "{}", first.text);

    let call = |query: &str| format!("{START_CALL}call:{name}{{query:{ESCAPE}{query}{ESCAPE}}}{END_CALL}");
    let answer = talk.answer(&format!("{}{}{START_RESPONSE}", call("one"), call("two")));
    assert_eq!((answer.calls.len(), answer.text.as_str(), answer.faults.len()), (2, "", 0));
    assert_eq!(talk.waits_for(), Some(name.as_str()));
    talk.respond(r#"{"place": "upstairs"}"#);
    talk.respond("not known");
    assert_eq!(talk.waits_for(), None);
    let second = talk.prompt(&checkpoint).unwrap();
    for part in ["query:<escape>two<escape>", "place:<escape>upstairs<escape>", "not known"] {
        assert!(second.text.contains(part), "{}", second.text);
    }
    assert!(second.text.starts_with(first.text.trim_end()), "{}", second.text);

    let broken = talk.answer(&format!("{START_CALL}call:"));
    assert_eq!((broken.calls.len(), broken.faults.len(), talk.waits_for()), (0, 1, None));
    talk.say("And then?");
    talk.prompt(&checkpoint).unwrap();
}

#[test]
fn answers_that_ended_before_the_scoring_was_stopped_are_judged() {
    let checkpoint = Checkpoint::open(&quickstart("model")).unwrap();
    let (tools, _) = load_tools(Path::new(&quickstart("tools.json"))).unwrap();
    let options = RowOptions { tools: Some(tools), ..RowOptions::default() };
    let rows = load_dataset(&quickstart("test.jsonl"), &options).unwrap().rows;
    let model = checkpoint.load(&devices::open(DeviceName::Cpu, None).unwrap()).unwrap();
    let prompts = Prompts::new(&checkpoint, &rows).unwrap();
    let options = checkpoint.generate_options(&Generation { max_new_tokens: 40, ..Generation::default() });
    let whole = prompts.score(&model, &checkpoint.tokenizer, &options, |_, _| Ok(())).unwrap();
    let some_ended = |done: usize, _: usize| if done > 0 { Err(Error::interrupted("enough")) } else { Ok(()) };
    let (part, ended) = prompts.score_until(&model, &checkpoint.tokenizer, &options, some_ended);
    assert_eq!(ended.unwrap_err().kind(), Kind::Interrupted);
    assert!((1..whole.score.total).contains(&part.score.total), "{:?}", part.score);
    for example in &part.examples {
        let same = whole.examples.iter().find(|whole| whole.origin == example.origin).unwrap();
        assert_eq!(same.token_ids, example.token_ids);
    }
    let stopped = prompts.score(&model, &checkpoint.tokenizer, &options, some_ended);
    assert_eq!(stopped.unwrap_err().kind(), Kind::Interrupted);
}
