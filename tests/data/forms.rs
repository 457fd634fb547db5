//! The forms that other trainers write tool calls in: xLAM, ShareGPT, Alpaca, OpenAI's older one, Hermes' text.

use engine::data::calls::CallStyle;
use engine::data::forms::Fields;
use engine::data::rows::TUTORIAL_SYSTEM;
use engine::data::{Origin, Row, RowContent, RowOptions};
use serde_json::{Value, json};

fn read(value: Value) -> engine::error::Result<Row> {
    Row::from_json(value, Origin::new("rows.jsonl", 3), &RowOptions::default())
}

fn chat(value: Value) -> (Vec<Value>, Vec<Value>) {
    match read(value).unwrap().content {
        RowContent::Chat { messages, tools, .. } => (messages, tools.to_vec()),
        other => panic!("not a chat: {other:?}"),
    }
}

fn refused(value: Value) -> String {
    let report = read(value).unwrap_err().report();
    assert!(report.contains("rows.jsonl:3"), "{report}");
    report
}

fn call(name: &str, arguments: Value) -> Value {
    json!({"type": "function", "function": {"name": name, "arguments": arguments}})
}

fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "description": "d"}})
}

fn developer() -> Value {
    json!({"role": "developer", "content": TUTORIAL_SYSTEM})
}

#[test]
fn xlam_rows_become_chats_whose_tools_have_schemas() {
    let parameters = json!({
        "city": {"type": "str", "description": "Where"},
        "days": {"type": "int, optional", "description": "How long", "default": 3},
        "hours": {"type": "List[int]", "description": "When"}
    });
    let tools = json!([{"name": "weather", "description": "W", "parameters": parameters}]).to_string();
    let answers = json!([{"name": "weather", "arguments": {"city": "Oslo", "hours": [1]}}]).to_string();
    let row = json!({"id": 7, "query": "How is Oslo?", "tools": tools, "answers": answers});
    assert_eq!(read(row.clone()).unwrap().form.fields, Fields::Xlam);
    let (messages, tools) = chat(row);
    let answer = json!({"role": "assistant", "tool_calls": [call("weather", json!({"city": "Oslo", "hours": [1]}))]});
    assert_eq!(messages, [developer(), json!({"role": "user", "content": "How is Oslo?"}), answer]);
    let properties = json!({
        "city": {"type": "string", "description": "Where"},
        "days": {"type": "integer", "description": "How long", "default": 3},
        "hours": {"type": "array", "description": "When", "items": {"type": "integer"}}
    });
    let expected = json!({"type": "object", "properties": properties, "required": ["city", "hours"]});
    assert_eq!(tools[0]["function"]["parameters"], expected);
}

#[test]
fn bad_xlam_rows_say_what_is_wrong() {
    let row = |answers: Value| json!({"query": "q", "tools": [tool("f")], "answers": answers});
    assert!(refused(row(json!("[]"))).contains("`answers` are empty") && refused(row(json!([]))).contains("hint:"));
    assert!(refused(row(json!("[{"))).contains("`answers` is a string but no JSON list"));
    assert!(refused(row(json!({}))).contains("`answers` is not a list"));
    assert!(refused(json!({"tools": [tool("f")], "answers": []})).contains("misses `query`"));
}

#[test]
fn sharegpt_turns_become_messages_and_bad_ones_are_counted() {
    let turns = json!([
        {"from": "human", "value": "hi"},
        {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"a\": 1}}"},
        {"from": "observation", "value": "15"},
        {"from": "gpt", "value": "ho"}
    ]);
    let (messages, tools) =
        chat(json!({"conversations": turns, "system": "S", "tools": json!([tool("f")]).to_string()}));
    let expected = [
        json!({"role": "system", "content": "S"}),
        json!({"role": "user", "content": "hi"}),
        json!({"role": "assistant", "tool_calls": [call("f", json!({"a": 1}))]}),
        json!({"role": "tool", "content": "15", "name": "f"}),
        json!({"role": "assistant", "content": "ho"}),
    ];
    assert_eq!((&messages[..], &tools[..]), (&expected[..], &[tool("f")][..]));
    let row = |turn: Value| json!({"conversations": [{"from": "human", "value": "hi"}, turn]});
    let stranger = refused(row(json!({"from": "parrot", "value": "x"})));
    assert!(
        stranger.contains("in turn 2") && stranger.contains("`parrot`") && stranger.contains("hint:"),
        "{stranger}"
    );
    assert!(refused(row(json!({"value": "x"}))).contains("misses `from`"));
    assert!(refused(row(json!({"from": "function_call", "value": "f()"}))).contains("not JSON"));
}

#[test]
fn alpaca_rows_become_chats() {
    let answer = json!({"role": "assistant", "content": "3"});
    let row = json!({"instruction": "Add", "input": "1 2", "output": "3"});
    assert_eq!(chat(row).0, [json!({"role": "user", "content": "Add\n\n1 2"}), answer.clone()]);
    let row = json!({"instruction": "Add", "input": "", "output": "3"});
    assert_eq!(chat(row).0, [json!({"role": "user", "content": "Add"}), answer]);
    assert!(refused(json!({"instruction": "a", "output": ""})).contains("`output` is empty"));
}

#[test]
fn function_call_and_its_response_become_a_tool_call_and_a_tool_message() {
    let function = json!({"name": "f", "arguments": "{\"a\": 1}"});
    let row = json!({"messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": null, "function_call": function},
        {"role": "function", "name": "f", "content": "15"}
    ], "functions": [{"name": "f", "description": "d"}]});
    assert_eq!(read(row.clone()).unwrap().form.calls, CallStyle::FunctionCall);
    let (messages, tools) = chat(row);
    assert_eq!(messages[1]["tool_calls"], json!([call("f", json!({"a": 1}))]));
    assert_eq!(messages[2], json!({"role": "tool", "name": "f", "content": "15"}));
    assert_eq!(tools, [tool("f")]);
    let both = json!({"role": "assistant", "tool_calls": [call("f", json!({}))], "function_call": function});
    assert!(refused(json!({"messages": [both]})).contains("both `tool_calls` and `function_call`"));
}

const HERMES: &str = "You are a function calling AI model. Signatures stand within <tools></tools> XML tags. <tools>\n\
                      [{'type': 'function', 'function': {'name': 'f', 'description': \"it's\", 'strict': True}}]\n</tools>\n\
                      Answer with <tool_call>\n{'name': <function-name>}\n</tool_call>";

#[test]
fn hermes_text_becomes_tools_calls_and_responses() {
    let turns = json!([
        {"from": "system", "value": HERMES},
        {"from": "human", "value": "hi"},
        {"from": "gpt", "value": "Let me see.\n<tool_call>\n{'arguments': {'a': None}, 'name': 'f'}\n</tool_call>\n\
                                  <tool_call>{\"name\": \"f\", \"arguments\": {\"b\": \"it's <x>\"}}</tool_call>"},
        {"from": "tool", "value": "<tool_response>\n{\"name\": \"f\", \"content\": {\"r\": 1}}\n</tool_response>\n\
                                   <tool_response>\nplain\n</tool_response>"}
    ]);
    let row = json!({"conversations": turns});
    assert_eq!(read(row.clone()).unwrap().form.calls, CallStyle::Text);
    let (messages, tools) = chat(row);
    let function = json!({"name": "f", "description": "it's", "strict": true});
    assert_eq!(tools, [json!({"type": "function", "function": function})]);
    let calls = [call("f", json!({"a": null})), call("f", json!({"b": "it's <x>"}))];
    assert_eq!(messages[0], developer());
    assert_eq!(messages[2], json!({"role": "assistant", "content": "Let me see.", "tool_calls": calls}));
    assert_eq!(messages[3], json!({"role": "tool", "name": "f", "content": {"r": 1}}));
    assert_eq!(messages[4], json!({"role": "tool", "name": "f", "content": "plain"}));
}

#[test]
fn a_broken_tool_call_text_is_refused_and_one_without_an_end_is_prose() {
    let row = |content: &str| json!({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": content}]});
    let report = refused(row("<tool_call>f(1)</tool_call>"));
    assert!(
        report.contains("in message 2") && report.contains("`<tool_call>` is not JSON") && report.contains("hint:")
    );
    let prose = "Hermes writes <tool_call> before a call.";
    assert_eq!(chat(row(prose)).0[1], json!({"role": "assistant", "content": prose}));
}

#[test]
fn columns_are_renamed() {
    let row = json!({"question": "q", "tool_name": "f", "args": "{}"});
    let read = |columns: &[(&str, &str)]| {
        let columns = columns.iter().map(|(field, column)| (field.to_string(), column.to_string())).collect();
        let options = RowOptions { tools: Some(vec![tool("f")]), columns, ..RowOptions::default() };
        Row::from_json(row.clone(), Origin::new("rows.jsonl", 3), &options)
    };
    assert_eq!(
        read(&[("user_content", "question"), ("tool_arguments", "args")]).unwrap().form.fields,
        Fields::Tutorial
    );
    let missing = read(&[("user_content", "ask")]).unwrap_err().report();
    assert!(
        missing.contains("no `ask`") && missing.contains("`question`") && missing.contains("rows.jsonl:3"),
        "{missing}"
    );
    let taken = read(&[("tool_name", "question")]).unwrap_err().report();
    assert!(taken.contains("a `tool_name` beside the `question`") && taken.contains("hint:"), "{taken}");
}

#[test]
fn a_field_that_is_null_is_named_as_such() {
    let report = refused(json!({"messages": null, "tools": []}));
    assert!(report.contains("`messages`: it is null") && !report.contains("no known form"), "{report}");
    let report = refused(json!({"chat": []}));
    assert!(report.contains("`chat`, which is no known form") && report.contains("--column"), "{report}");
}

#[test]
fn a_type_of_a_hundred_thousand_levels_ends() {
    let kind = format!("{}int{}", "List[".repeat(100_000), "]".repeat(100_000));
    let tools = json!([{"name": "f", "description": "d", "parameters": {"a": {"type": kind}}}]);
    let row = json!({"query": "q", "tools": tools, "answers": [{"name": "f", "arguments": {"a": []}}]});
    assert_eq!(chat(row).1[0]["function"]["parameters"]["properties"]["a"]["type"], "array");
}
