//! Rows in all their forms, and bad ones.

use engine::data::rows::TUTORIAL_SYSTEM;
use engine::data::rows::mixed_splits;
use engine::data::{Origin, Row, RowContent, RowOptions, load_tools};
use serde_json::{Value, json};

fn read(value: Value, options: &RowOptions) -> engine::error::Result<Row> {
    Row::from_json(value, Origin::new("rows.jsonl", 3), options)
}

fn chat(value: Value, options: &RowOptions) -> (Vec<Value>, Vec<Value>, Option<usize>) {
    match read(value, options).unwrap().content {
        RowContent::Chat { messages, tools, prompt_messages } => (messages, tools.to_vec(), prompt_messages),
        other => panic!("not a chat: {other:?}"),
    }
}

/// The report of the error that `value` causes; it names the place.
fn refused(value: Value) -> String {
    let report = read(value, &RowOptions::default()).unwrap_err().report();
    assert!(report.contains("rows.jsonl:3"), "{report}");
    report
}

fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "description": "d"}})
}

fn user() -> Value {
    json!({"role": "user", "content": "hi"})
}

#[test]
fn messages_and_tools_are_kept_and_bare_functions_wrapped() {
    let bare = json!({"name": "g", "description": "d"});
    let row = json!({"messages": [user(), {"role": "assistant", "content": "ho"}], "tools": [tool("f"), bare]});
    let (messages, tools, prompt_messages) = chat(row, &RowOptions::default());
    assert_eq!(messages, [user(), json!({"role": "assistant", "content": "ho"})]);
    assert_eq!(tools, [tool("f"), json!({"type": "function", "function": bare})]);
    assert_eq!(prompt_messages, None);
}

#[test]
fn prompt_and_completion_messages_are_joined_and_the_border_remembered() {
    let options = RowOptions { system: Some("S".into()), ..RowOptions::default() };
    let row = json!({"prompt": [user()], "completion": [{"role": "assistant", "content": "ho"}]});
    let (messages, _, prompt_messages) = chat(row, &options);
    assert_eq!(messages.len(), 3);
    assert_eq!(messages[0], json!({"role": "developer", "content": "S"}));
    assert_eq!(prompt_messages, Some(2));
}

#[test]
fn strings_stay_text() {
    let row = read(json!({"prompt": "a", "completion": "b"}), &RowOptions::default()).unwrap();
    assert_eq!(row.content, RowContent::Text { prompt: Some("a".into()), text: "b".into() });
    let row = read(json!({"text": "a"}), &RowOptions::default()).unwrap();
    assert_eq!(row.content, RowContent::Text { prompt: None, text: "a".into() });
}

#[test]
fn a_tutorial_row_becomes_a_chat_with_the_tools_of_the_command_line() {
    let row = json!({"user_content": "q", "tool_name": "f", "tool_arguments": "{\"query\": \"x\"}"});
    let mut options = RowOptions { tools: Some(vec![tool("e"), tool("f")]), ..Default::default() };
    let (messages, tools, _) = chat(row.clone(), &options);
    let call = json!({"type": "function", "function": {"name": "f", "arguments": {"query": "x"}}});
    assert_eq!(messages[0], json!({"role": "developer", "content": TUTORIAL_SYSTEM}));
    assert_eq!(messages[1], json!({"role": "user", "content": "q"}));
    assert_eq!(messages[2], json!({"role": "assistant", "tool_calls": [call]}));
    assert_eq!(tools, [tool("e"), tool("f")]);
    options.system = Some("other".into());
    assert_eq!(chat(row.clone(), &options).0[0]["content"], "other");
    assert!(refused(row.clone()).contains("--tools"));
    options.tools = Some(vec![tool("e")]);
    assert!(read(row, &options).unwrap_err().report().contains("`f`, which is not among the tools `e`"));
}

#[test]
fn the_command_line_serves_rows_without_tools_or_developer_message_only() {
    let options = RowOptions { tools: Some(vec![tool("f")]), system: Some("S".into()), ..Default::default() };
    let developer = json!({"role": "system", "content": "own"});
    let (messages, tools, _) = chat(json!({"messages": [developer, user()], "tools": [tool("g")]}), &options);
    assert_eq!((&messages[0], &tools[..]), (&developer, &[tool("g")][..]));
    assert_eq!(chat(json!({"messages": [user()], "tools": []}), &options).1, [] as [Value; 0]);
    let (messages, tools, _) = chat(json!({"messages": [user()], "tools": null}), &options);
    assert_eq!((messages[0]["content"].as_str(), &tools[..]), (Some("S"), &[tool("f")][..]));
}

#[test]
fn mobile_actions_rows_work_and_remember_their_split() {
    let function = json!({"name": "f", "description": "d", "parameters": {"type": "OBJECT", "properties": {}}});
    let calls = json!([{"function": {"name": "f", "arguments": {}}}]);
    let messages = json!([{"role": "developer", "content": "D"}, user(), {"role": "assistant", "tool_calls": calls}]);
    let row = json!({"metadata": "eval", "tools": [{"function": function}], "messages": messages});
    let row = read(row, &RowOptions::default()).unwrap();
    assert_eq!(row.split.as_deref(), Some("eval"));
    assert_eq!(row.tool_names(), ["f"]);
}

#[test]
fn arguments_and_tools_given_as_json_strings_are_parsed() {
    let call = |arguments: Value| json!({"id": "1", "function": {"name": "f", "arguments": arguments}});
    let row = |arguments: Value| {
        let tools = json!([tool("f")]).to_string();
        json!({"messages": [user(), {"role": "assistant", "tool_calls": [call(arguments)]}], "tools": tools})
    };
    let (messages, tools, _) = chat(row(json!("{\"a\": [1]}")), &RowOptions::default());
    assert_eq!(messages[1]["tool_calls"][0]["function"]["arguments"], json!({"a": [1]}));
    assert_eq!(tools, [tool("f")]);
    assert_eq!(
        chat(row(Value::Null), &RowOptions::default()).0[1]["tool_calls"][0]["function"]["arguments"],
        json!({})
    );
    assert!(refused(row(json!("{a: 1}"))).contains("arguments of `f` are a string that is not JSON"));
    assert!(refused(row(json!("[1]"))).contains("not a JSON object"));
    assert!(refused(row(json!(7))).contains("not a JSON object"));
}

#[test]
fn a_tool_response_takes_its_name_from_the_call_it_answers() {
    let call = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": {}}});
    let response = json!({"role": "tool", "tool_call_id": "c1", "content": "15"});
    let row = json!({"messages": [user(), {"role": "assistant", "content": null, "tool_calls": [call]}, response]});
    assert_eq!(chat(row, &RowOptions::default()).0[2]["name"], "f");
}

#[test]
fn every_bad_row_is_refused_with_its_place() {
    let one = |message: Value| json!({"messages": [message]});
    let cases = [
        (json!([1]), "not a JSON object"),
        (json!({}), "the row is empty"),
        (json!({"conversations": []}), "`conversations`"),
        (json!({"messages": []}), "no messages"),
        (json!({"messages": 1}), "`messages` is not a list"),
        (json!({"messages": "x"}), "no JSON list"),
        (json!({"prompt": "a"}), "misses `completion`"),
        (json!({"completion": "a"}), "misses `prompt`"),
        (json!({"prompt": "a", "completion": [user()]}), "neither two strings"),
        (json!({"prompt": "a", "completion": ""}), "`completion` is empty"),
        (json!({"prompt": [], "completion": [user()]}), "at least one message"),
        (json!({"text": ""}), "`text` is empty"),
        (one(json!("x")), "not a JSON object"),
        (one(json!({"content": "x"})), "misses `role`"),
        (one(json!({"role": "robot", "content": "x"})), "\"robot\" is unknown"),
        (one(json!({"role": "user"})), "misses `content`"),
        (one(json!({"role": "assistant"})), "misses `content`"),
        (one(json!({"role": "assistant", "tool_calls": []})), "misses `content`"),
        (one(json!({"role": "user", "content": 5})), "wrong type"),
        (one(json!({"role": "user", "content": [{"type": "image"}]})), "type `image`"),
        (one(json!({"role": "tool", "content": [1]})), "wrong type"),
        (one(json!({"role": "assistant", "tool_calls": {}})), "not a list"),
        (one(json!({"role": "assistant", "tool_calls": [{"function": {}}]})), "misses the `name`"),
        (one(json!({"role": "assistant", "tool_calls": [{}]})), "misses `function`"),
        (json!({"messages": [user()], "tools": {}}), "`tools` is not a list"),
        (json!({"messages": [user()], "tools": [{"function": {}}]}), "no `name`"),
        (json!({"messages": [user()], "tools": ["f"]}), "not JSON"),
    ];
    for (row, expected) in cases {
        let report = refused(row.clone());
        assert!(report.contains(expected), "{row}\n{report}");
    }
}

#[test]
fn the_bad_message_is_counted() {
    let report = refused(json!({"messages": [user(), {"role": "robot", "content": ""}]}));
    assert!(report.contains("in message 2") && report.contains("hint: a role is one of `system`"), "{report}");
}

#[test]
fn a_tools_file_warns_of_properties_that_the_template_leaves_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tools.json");
    let inner = json!({"type": "object", "properties": {"required": {"type": "string"}}});
    let properties = json!({"type": {"type": "string"}, "q": {"type": "array", "items": inner}});
    let bare = json!([{"name": "f", "description": "d", "parameters": {"type": "object", "properties": properties}}]);
    std::fs::write(&path, bare.to_string()).unwrap();
    let (tools, warnings) = load_tools(&path).unwrap();
    assert_eq!(tools[0]["function"]["name"], "f");
    assert_eq!(warnings.len(), 2);
    assert!(warnings[0].contains("tool `f`") && warnings[0].contains("`type`") && warnings[1].contains("`required`"));
    for bad in ["", "{}", "[]", "[{}]", "[{\"name\": \"f\", \"parameters\": []}]"] {
        std::fs::write(&path, bad).unwrap();
        assert!(load_tools(&path).unwrap_err().report().contains("tools.json"), "{bad}");
    }
}

#[test]
fn rows_that_call_themselves_train_and_something_else_are_named() {
    let row = |split: &str| read(json!({"metadata": split, "messages": [user()]}), &RowOptions::default()).unwrap();
    let warning = mixed_splits(&[row("train"), row("eval"), row("train")]).unwrap();
    assert!(warning.contains("`eval`, `train`"), "{warning}");
    assert_eq!(mixed_splits(&[row("train")]), None);
}

#[test]
fn a_tools_response_that_is_the_text_of_an_object_is_parsed_where_it_is_asked_for() {
    let response = |content: &str| json!({"role": "tool", "name": "f", "content": content});
    let row = json!({"messages": [user(), response("{\"a\": 1}"), response("[1]"), response("sunny")]});
    let contents = |options: &RowOptions| match read(row.clone(), options).unwrap().content {
        RowContent::Chat { messages, .. } => messages[1..].iter().map(|m| m["content"].clone()).collect::<Vec<_>>(),
        other => panic!("not a chat: {other:?}"),
    };
    let options = RowOptions { parse_tool_responses: true, ..RowOptions::default() };
    assert_eq!(contents(&options), [json!({"a": 1}), json!("[1]"), json!("sunny")]);
    assert_eq!(contents(&RowOptions::default())[0], json!("{\"a\": 1}"));
}
