//! What `engine check` finds without a tokenizer: every problem once, at its place, and nothing in good rows.

use engine::data::check::{check_rows, overlap, summary, without_calls};
use engine::data::finding::{Finding, Problem};
use engine::data::rows::TUTORIAL_SYSTEM;
use engine::data::{Origin, Row, RowOptions};
use serde_json::{Value, json};

fn row(line: usize, value: Value) -> Row {
    Row::from_json(value, Origin::new("rows.jsonl", line), &RowOptions::default()).unwrap()
}

fn tool(parameters: Value) -> Value {
    json!({"name": "f", "description": "d", "parameters": parameters})
}

fn parameters() -> Value {
    json!({"type": "object", "properties": {
        "city": {"type": "string", "description": "D"},
        "days": {"type": "INTEGER", "description": "D"},
        "unit": {"type": "string", "description": "D", "enum": ["C", "F"]},
        "tags": {"type": "array", "description": "D", "items": {"type": "string"}},
        "near": {"type": "object", "description": "D", "properties": {"lat": {"type": "number", "description": "D"}},
                 "required": ["lat"]}
    }, "required": ["city"]})
}

/// A chat in which `f` of these parameters is called with these arguments.
fn chat(line: usize, parameters: Value, arguments: Value) -> Row {
    let messages = json!([
        {"role": "developer", "content": TUTORIAL_SYSTEM},
        {"role": "user", "content": format!("q{line}")},
        {"role": "assistant", "tool_calls": [{"name": "f", "arguments": arguments}]}
    ]);
    row(line, json!({"messages": messages, "tools": [tool(parameters)]}))
}

fn problems(rows: &[Row]) -> Vec<(String, Problem, String)> {
    check_rows(rows).into_iter().map(|Finding { place, problem, text }| (place, problem, text)).collect()
}

/// The one problem of a call with these arguments.
fn of_call(arguments: Value) -> (Problem, String) {
    let found = problems(&[chat(7, parameters(), arguments)]);
    let [(place, problem, text)] = &found[..] else { panic!("not one problem: {found:?}") };
    assert_eq!(place, "rows.jsonl:7");
    (*problem, text.clone())
}

/// The one problem of a property.
fn of_property(name: &str, property: Value) -> (Problem, String) {
    let mut parameters = json!({"type": "object", "properties": {}});
    parameters["properties"][name] = property;
    let found = problems(&[chat(7, parameters, json!({}))]);
    let [(_, problem, text)] = &found[..] else { panic!("not one problem: {found:?}") };
    (*problem, text.clone())
}

#[test]
fn good_rows_have_no_problem() {
    let arguments = json!({"city": "Oslo", "days": 3, "unit": "C", "tags": ["a"], "near": {"lat": 1.5}});
    assert_eq!(problems(&[chat(1, parameters(), arguments), chat(2, parameters(), json!({"city": "Rome"}))]), []);
    assert_eq!(problems(&crate::tutorial_rows()), []);
}

#[test]
fn arguments_that_break_the_schema_are_named() {
    let (problem, text) = of_call(json!({"city": "Oslo", "town": "Oslo"}));
    assert_eq!((problem, text.contains("no argument `town`; it has `city`, `days`")), (Problem::UnknownArgument, true));
    let (problem, text) = of_call(json!({"days": 1}));
    assert_eq!((problem, text.as_str()), (Problem::MissingArgument, "`f` requires the argument `city`"));
    for wrong in
        [json!({"days": "3"}), json!({"days": 1.5}), json!({"city": 3}), json!({"tags": [1]}), json!({"tags": "a"})]
    {
        let mut arguments = json!({"city": "Oslo"});
        arguments.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        assert_eq!(of_call(arguments).0, Problem::WrongType, "{wrong}");
    }
    assert_eq!(of_call(json!({"city": "Oslo", "unit": "K"})).0, Problem::NotInEnum);
    assert_eq!(of_call(json!({"city": "Oslo", "near": {}})).1, "`f` requires the argument `near.lat`");
    assert_eq!(of_call(json!({"city": "Oslo", "near": {"lat": 1, "x": 2}})).0, Problem::UnknownArgument);
    assert_eq!(of_call(json!({"city": "Oslo", "days": null})).0, Problem::NullPadding);
    assert_eq!(of_call(json!({"city": "Oslo", "foreign": null})).0, Problem::NullPadding);
}

#[test]
fn what_the_template_garbles_or_leaves_out_is_named() {
    let (problem, text) = of_property("a", json!({"type": ["string", "null"], "description": "D"}));
    assert!(problem == Problem::Garbled && text.contains("`['STRING', 'NULL']`"), "{text}");
    let two = json!({"anyOf": [{"type": "string"}, {"type": "integer"}], "description": "D"});
    assert_eq!(of_property("a", two).0, Problem::Swallowed);
    assert_eq!(of_property("type", json!({"type": "string", "description": "D"})).0, Problem::Swallowed);
    assert_eq!(of_property("a", json!({"description": "D"})).0, Problem::Garbled);
    let (problem, text) = of_property("a", json!({"type": "integer", "description": "D", "default": 3, "minimum": 1}));
    assert!(problem == Problem::Dropped && text.contains("`default`, `minimum`"), "{text}");
    assert_eq!(of_property("a", json!({"type": "integer", "description": "D", "enum": [1]})).0, Problem::Dropped);
    assert_eq!(of_property("a", json!(null)).0, Problem::NullPadding);
    assert_eq!(of_property("a", json!({"type": "string", "description": "D", "items": null})).0, Problem::NullPadding);
    let found = problems(&[chat(7, json!({"properties": {}}), json!({}))]);
    assert!(found[0].1 == Problem::Garbled && found[0].2.contains("no `type`"), "{found:?}");
    let nameless = json!({"messages": [{"role": "developer", "content": TUTORIAL_SYSTEM}, {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"}], "tools": [{"name": "f"}]});
    assert!(problems(&[row(1, nameless)])[0].2.contains("no description"));
}

#[test]
fn a_tool_is_looked_at_once_and_one_that_stands_twice_is_named() {
    let garbled = json!({"type": "object", "properties": {"a": {"description": "D"}}});
    let rows = [chat(1, garbled.clone(), json!({"a": 1})), chat(2, garbled, json!({"a": 1}))];
    assert_eq!(problems(&rows).len(), 1);
    let twice = json!({"messages": [{"role": "developer", "content": TUTORIAL_SYSTEM}, {"role": "user", "content": "q"},
        {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"city": "Oslo"}}]}],
        "tools": [tool(parameters()), tool(parameters())]});
    let found = problems(&[row(3, twice)]);
    assert_eq!((found.len(), found[0].1), (1, Problem::DuplicateTool));
}

#[test]
fn a_system_message_that_replaces_the_trigger_sentence_is_named() {
    let with = |system: Option<&str>| {
        let system = system.map(|text| json!({"role": "system", "content": text}));
        let user = [json!({"role": "user", "content": "q"}), json!({"role": "assistant", "content": "a"})];
        let messages: Vec<Value> = system.into_iter().chain(user).collect();
        problems(&[row(1, json!({"messages": messages, "tools": [tool(parameters())]}))])
    };
    assert!(with(Some("Be kind."))[0].2.contains("replaces the sentence"));
    assert!(with(None)[0].2.contains("give `--system`"));
    assert_eq!(with(Some(&format!("{TUTORIAL_SYSTEM}\nBe kind."))), []);
}

#[test]
fn quoted_responses_and_unanswered_questions_are_named() {
    let call = json!({"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"city": "Oslo"}}]});
    let answered = |content: Value| {
        let messages = json!([{"role": "developer", "content": TUTORIAL_SYSTEM}, {"role": "user", "content": "q"}, call,
            {"role": "tool", "name": "f", "content": content}]);
        problems(&[row(1, json!({"messages": messages, "tools": [tool(parameters())]}))])
    };
    let found = answered(json!("{\"degrees\": 3}"));
    assert!(found[0].1 == Problem::QuotedResponse && found[0].2.contains("--parse-tool-responses"), "{found:?}");
    assert_eq!((answered(json!({"degrees": 3})), answered(json!("cold"))), (vec![], vec![]));
    let found = problems(&[row(1, json!({"messages": [{"role": "user", "content": "q"}]}))]);
    assert_eq!(found[0].1, Problem::EndsWithUser);
}

#[test]
fn rows_that_stand_twice_or_in_both_are_named_by_both_places() {
    let other = |line| {
        let mut other = chat(1, parameters(), json!({"city": "Oslo"}));
        other.origin.line = line;
        other
    };
    let found = problems(&[other(1), other(5)]);
    assert_eq!(found, [("rows.jsonl:5".into(), Problem::DuplicateRow, "the same as `rows.jsonl:1`".into())]);
    let test = chat(1, parameters(), json!({"city": "Rome"}));
    let found = overlap(&[other(4)], &[test, chat(2, parameters(), json!({"city": "Rome"}))]);
    assert_eq!((found.len(), found[0].problem), (1, Problem::InBoth));
    assert!(found[0].text.contains("`rows.jsonl:4`"));
}

#[test]
fn tools_that_nobody_calls_and_ones_that_outnumber_others_are_named() {
    let call = |line: usize, name: &str| {
        let messages = json!([{"role": "developer", "content": TUTORIAL_SYSTEM}, {"role": "user", "content": format!("{line}")},
            {"role": "assistant", "tool_calls": [{"name": name, "arguments": {}}]}]);
        let tools: Vec<Value> = ["f", "g", "h"].iter().map(|name| json!({"name": name, "description": "d"})).collect();
        row(line, json!({"messages": messages, "tools": tools}))
    };
    let rows: Vec<Row> = (0..42).map(|line| call(line, if line == 0 { "g" } else { "f" })).collect();
    let found = problems(&rows);
    assert!(found.iter().all(|(_, problem, _)| *problem == Problem::Imbalance) && found.len() == 2, "{found:?}");
    assert!(
        found[0].2.contains("nothing calls `h`") && found[1].2.contains("`f` (41 calls)") && found[1].2.contains("`g`")
    );
    assert_eq!(without_calls(&rows), (0, 42));
}

#[test]
fn a_summary_has_a_line_for_each_problem_errors_first() {
    let bad: Vec<Row> = (1..=3).map(|line| chat(line, parameters(), json!({"city": line}))).collect();
    let quiet = row(9, json!({"messages": [{"role": "user", "content": "q"}]}));
    let rows: Vec<Row> = [quiet].into_iter().chain(bad).collect();
    let lines = summary(&check_rows(&rows));
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("rows.jsonl:1: wrong type") && lines[0].ends_with("and 2 more of this"), "{lines:?}");
}
