//! The verdicts: the tutorial's rule on the outputs of a real run, and the strict parts on small cases.

use engine::eval::report::{Answer, Report};
use engine::eval::verdict::{Expected, Label, Verdict, json_equal, judge};
use serde_json::{Value, json};

/// An expected answer that calls each of `calls` (name, arguments).
fn expect_calls(calls: &[(&str, Value)]) -> Expected {
    let calls: Vec<Value> =
        calls.iter().map(|(name, arguments)| json!({"function": {"name": name, "arguments": arguments}})).collect();
    Expected::from_messages(&[json!({"role": "assistant", "tool_calls": calls})]).unwrap()
}

fn expect_prose() -> Expected {
    Expected::from_messages(&[json!({"role": "assistant", "content": "It is noon."})]).unwrap()
}

fn call(name: &str, arguments: &str) -> String {
    format!("<start_function_call>call:{name}{arguments}<end_function_call>")
}

fn judge_among(output: &str, expected: &Expected, tools: &[&str]) -> Verdict {
    judge(output, expected, &tools.iter().map(ToString::to_string).collect::<Vec<_>>())
}

/// The verdict on `output` where `web{q:1}` was due and `web` and `docs` are the tools.
fn judge_web(output: &str) -> Verdict {
    judge_among(output, &expect_calls(&[("web", json!({"q": 1}))]), &["web", "docs"])
}

/// The strict parts from the first to the last.
fn strict(verdict: &Verdict) -> [bool; 4] {
    [verdict.format_valid, verdict.name_correct, verdict.arguments_correct, verdict.exact]
}

#[test]
fn scores_a_real_run_as_its_own_log_does() {
    let log: Value = serde_json::from_str(include_str!("../fixtures/eval/tutorial_outputs.json")).unwrap();
    let tools: Vec<String> = serde_json::from_value(log["tools"].clone()).unwrap();
    // Format, name, arguments: counted with a regular expression in Python.
    for (when, strict) in [("before", [0, 0, 0]), ("after", [18, 16, 0])] {
        let mut report = Report::default();
        for example in log[when]["examples"].as_array().unwrap() {
            let expected = expect_calls(&[(example["name"].as_str().unwrap(), example["arguments"].clone())]);
            let output = example["output"].as_str().unwrap().to_owned();
            report.add(Answer { output, ..Answer::default() }, expected, &tools);
        }
        assert_eq!(report.score.correct as u64, log[when]["correct"].as_u64().unwrap(), "{when}");
        let counts = &report.score.strict;
        assert_eq!([counts.format_valid, counts.name, counts.arguments], strict, "{when}");
        assert_eq!(report.score.total, 20);
        assert_eq!(counts.missing_call, if when == "before" { 20 } else { 0 });
    }
}

#[test]
fn a_right_call_is_right_in_every_way() {
    let verdict = judge_web(&(call("web", "{q:1}") + "<start_function_response>"));
    assert!(verdict.correct);
    assert_eq!(strict(&verdict), [true; 4]);
    assert_eq!((verdict.missing_call, verdict.spurious_call), (false, false));
    assert_eq!(verdict.label, Label::Correct);
}

#[test]
fn one_equals_one_point_zero_and_the_string_one_does_not() {
    assert!(judge_web(&call("web", "{q:1.0}")).exact);
    assert!(!judge_web(&call("web", "{q:<escape>1<escape>}")).arguments_correct);
    assert!(json_equal(&json!({"a": [1, {"b": 2.0}], "c": 0}), &json!({"c": -0.0, "a": [1.0, {"b": 2}]})));
    assert!(!json_equal(&json!(9_007_199_254_740_993_u64), &json!(9_007_199_254_740_992_u64)), "equal only as floats");
    assert!(!json_equal(&json!(1), &json!(true)));
    assert!(!json_equal(&json!([1, 2]), &json!([2, 1])));
    assert!(!json_equal(&json!({"a": null}), &json!({})));
}

#[test]
fn each_label_says_what_the_output_did() {
    for (output, label, correct, strict_parts) in [
        ("I would use web, but cannot.", Label::NoCall, true, [false; 4]),
        ("I cannot do that.", Label::NoCall, false, [false; 4]),
        ("", Label::NoCall, false, [false; 4]),
        (&call("docs", "{q:1}"), Label::WrongTool, false, [true, false, false, false]),
        (&call("lookup", "{q:1}"), Label::WrongTool, false, [true, false, false, false]),
        (&(call("web", "{q:1}") + &call("docs", "{}")), Label::BothTools, false, [true, false, false, false]),
        (&call("web", "{q:<escape>docs<escape>}"), Label::BothTools, false, [true, true, false, false]),
        (&call("web", "{q=1}"), Label::BadFormat, true, [false; 4]),
        ("<start_function_call>call:web{q:1}", Label::BadFormat, true, [false; 4]),
        (&(call("web", "{q:1}") + &call("web", "{q:1}")), Label::WrongCalls, true, [true, false, false, false]),
        (&call("web", "{q:2}"), Label::WrongArguments, true, [true, true, false, false]),
        (&call("web", "{q:1,r:2}"), Label::WrongArguments, true, [true, true, false, false]),
        (&call("web", ""), Label::WrongArguments, true, [true, true, false, false]),
        (&("Sure. ".to_owned() + &call("web", "{q:1}")), Label::ExtraText, true, [true, true, true, false]),
    ] {
        let verdict = judge_web(output);
        assert_eq!((verdict.label, verdict.correct), (label, correct), "{output}");
        assert_eq!(strict(&verdict), strict_parts, "{output}");
        assert_eq!(verdict.missing_call, label == Label::NoCall, "{output}");
        assert!(!verdict.spurious_call, "{output}");
    }
}

#[test]
fn where_no_call_is_due_prose_is_right_and_a_call_is_not() {
    for (output, label, correct, strict_parts) in [
        ("It's twelve.<end_of_turn>", Label::Correct, true, [true; 4]),
        ("", Label::Empty, true, [true, true, true, false]),
        ("Ask web yourself.", Label::NamesTool, false, [true; 4]),
        (&call("web", "{}"), Label::SpuriousCall, false, [true, false, false, false]),
        (&call("unknown", "{}"), Label::SpuriousCall, false, [true, false, false, false]),
        ("<start_function_call>call", Label::SpuriousCall, false, [false; 4]),
        ("It's <escape>twelve<escape>.", Label::BadFormat, true, [false; 4]),
    ] {
        let verdict = judge_among(output, &expect_prose(), &["web", "docs"]);
        assert_eq!((verdict.label, verdict.correct), (label, correct), "{output}");
        assert_eq!(strict(&verdict), strict_parts, "{output}");
        assert_eq!(verdict.spurious_call, label == Label::SpuriousCall, "{output}");
        assert!(!verdict.missing_call, "{output}");
    }
}

#[test]
fn parallel_calls_are_compared_as_a_set() {
    let expected = expect_calls(&[("add", json!({"n": 1})), ("add", json!({"n": 2})), ("show", json!({}))]);
    let judge_calls = |calls: &[(&str, &str)]| {
        let output: String = calls.iter().map(|(name, arguments)| call(name, arguments)).collect();
        judge_among(&output, &expected, &["add", "show", "undo"])
    };
    assert_eq!(strict(&judge_calls(&[("show", ""), ("add", "{n:2}"), ("add", "{n:1}")])), [true; 4]);
    let doubled = judge_calls(&[("show", ""), ("add", "{n:2}"), ("add", "{n:2}")]);
    assert_eq!((strict(&doubled), doubled.label), ([true, true, false, false], Label::WrongArguments));
    let missing = judge_calls(&[("add", "{n:1}"), ("show", "")]);
    assert_eq!(
        (missing.correct, strict(&missing), missing.label),
        (true, [true, false, false, false], Label::WrongCalls)
    );
    let only_one = judge_calls(&[("show", "")]);
    assert_eq!((only_one.correct, only_one.label), (false, Label::WrongCalls));
}

#[test]
fn a_name_inside_a_longer_tool_name_is_not_named() {
    let tools = ["search", "search_web", "web"];
    let due = |name| expect_calls(&[(name, json!({}))]);
    assert!(judge_among(&call("search_web", ""), &due("search_web"), &tools).correct);
    assert!(judge_among(&call("search", ""), &due("search"), &tools).correct);
    assert!(!judge_among(&call("search_web", ""), &due("search"), &tools).correct);
    assert!(!judge_among("search_web and search", &due("search_web"), &tools).correct);
    // Not part of a tool's name: the tutorial's plain rule, which takes any occurrence.
    assert!(judge_among("research.", &due("search"), &["search"]).correct);
}

#[test]
fn reads_expected_answers_in_every_form_of_openai() {
    let call_with = |arguments: Value| {
        let call = json!({"type": "function", "function": {"name": "f", "arguments": arguments}});
        json!({"role": "assistant", "content": null, "tool_calls": [call]})
    };
    let as_object = Expected::from_messages(&[call_with(json!({"a": 1}))]).unwrap();
    let as_text = Expected::from_messages(&[call_with(json!("{\"a\": 1}"))]).unwrap();
    assert_eq!(as_object, as_text);
    assert_eq!(as_object.calls[0].arguments["a"], 1);
    assert_eq!(as_object.text, None);
    assert_eq!(Expected::from_messages(&[call_with(Value::Null)]).unwrap().calls[0].arguments.len(), 0);
    let bare = json!({"role": "model", "tool_calls": [{"name": "f", "arguments": {"a": 1}}]});
    assert_eq!(Expected::from_messages(&[bare]).unwrap(), as_object);
    let parts = json!({"role": "assistant", "content": [{"type": "text", "text": "It is "}, {"type": "text", "text": "noon."}]});
    assert_eq!(Expected::from_messages(&[parts]).unwrap(), expect_prose());
}

#[test]
fn refuses_expected_answers_that_it_cannot_read() {
    for (message, part) in [
        (json!({"role": "user", "content": "hi"}), "has role `\"user\"`"),
        (json!({"role": "assistant", "tool_calls": {"name": "f"}}), "`tool_calls` is not a list"),
        (json!({"role": "assistant", "tool_calls": [{"function": {}}]}), "has no `name`"),
        (json!({"role": "assistant", "tool_calls": ["f"]}), "has no `name`"),
        (
            json!({"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{a: 1}"}]}),
            "call of `f` are not a JSON object",
        ),
        (
            json!({"role": "assistant", "tool_calls": [{"name": "f", "arguments": [1]}]}),
            "call of `f` are not an object",
        ),
    ] {
        let error = Expected::from_messages(std::slice::from_ref(&message)).expect_err(part);
        assert!(error.to_string().contains(part), "{error}");
    }
}
