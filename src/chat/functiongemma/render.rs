//! FunctionGemma's chat format, written in Rust: the renderer for a checkpoint that brings no chat template.
//!
//! The format has corners that look like mistakes; a model has seen them in training, so they are kept: properties named
//! like a schema keyword vanish, `parameters` without a `type` loses its closing brace, a user turn straight after a tool
//! response has no opening marker, and raw argument strings are preceded by twenty spaces.

use serde_json::{Map, Value};

use crate::chat::python::{strip, text};
use crate::data::tools::DROPPED_PROPERTIES;
use crate::error::Result;
use crate::{bail, err};

/// What the message before left open.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    Turn,
    Calls,
    Response,
}

/// The prompt text of `messages` (OpenAI form) with `tools` declared.
///
/// # Errors
/// No messages, content of a type that has no rendering, or a tool response without a name.
pub fn render(bos: &str, messages: &[Value], tools: &[Value], add_generation_prompt: bool) -> Result<String> {
    let Some(first) = messages.first() else { bail!("a chat needs at least one message") };
    let opening = matches!(role(first)?, "system" | "developer");
    let mut out = bos.to_string();
    if opening || !tools.is_empty() {
        out += "<start_of_turn>developer\n";
        if opening {
            push_parts(&mut out, &first["content"], "");
        }
        for tool in tools {
            push_declaration(&mut out, tool)?;
        }
        out += "<end_of_turn>\n";
    }
    let rest = if opening { &messages[1..] } else { messages };
    let mut before = Before::Turn;
    for (i, message) in rest.iter().enumerate() {
        before = match role(message)? {
            "tool" => push_response(&mut out, message)?,
            role => push_turn(&mut out, role, message, before, i + 1 == rest.len())?,
        };
    }
    if add_generation_prompt && before != Before::Response {
        out += "<start_of_turn>model\n";
    }
    Ok(out)
}

fn role(message: &Value) -> Result<&str> {
    message["role"].as_str().ok_or_else(|| err!("a message has no `role`"))
}

fn push_turn(out: &mut String, role: &str, message: &Value, before: Before, last: bool) -> Result<Before> {
    if before != Before::Response {
        *out += &format!("<start_of_turn>{}\n", if role == "assistant" { "model" } else { role });
    }
    match &message["content"] {
        Value::Bool(_) | Value::Number(_) => bail!("the content of a message is neither text nor a list of parts"),
        content => push_parts(out, content, "<start_of_image>"),
    }
    let calls = list(&message["tool_calls"]);
    for call in calls {
        push_call(out, &call["function"])?;
    }
    if calls.is_empty() {
        *out += "<end_of_turn>\n";
        return Ok(Before::Turn);
    }
    if last {
        *out += "<start_function_response>";
    }
    Ok(Before::Calls)
}

/// Text parts, trimmed, with nothing between; an image part becomes `image`.
fn push_parts(out: &mut String, content: &Value, image: &str) {
    if let Value::String(content) = content {
        *out += strip(content);
    }
    for part in list(content) {
        match part["type"].as_str() {
            Some("text") => *out += strip(&text(&part["text"])),
            Some("image") => *out += image,
            _ => {}
        }
    }
}

fn push_call(out: &mut String, function: &Value) -> Result<()> {
    *out += &format!("<start_function_call>call:{}{{", name(function)?);
    match &function["arguments"] {
        Value::Object(arguments) => push_pairs(out, arguments, false),
        Value::String(raw) => *out += &format!("{:20}{raw}", ""),
        _ => {}
    }
    *out += "}<end_function_call>";
    Ok(())
}

fn push_response(out: &mut String, message: &Value) -> Result<Before> {
    let unnamed = || {
        err!("a tool response has no name")
            .hint("give the `tool` message a `name`, or content {\"name\", \"response\"}")
    };
    let named = |content: &Value| -> Result<String> {
        let (name, values) = match (&content["name"], &content["response"]) {
            (Value::Null, _) | (_, Value::Null) => (&message["name"], content),
            pair => pair,
        };
        let name = name.as_str().ok_or_else(unnamed)?;
        let values = values.as_object().ok_or_else(|| err!("the response of tool `{name}` is not an object"))?;
        let mut out = format!("<start_function_response>response:{}{{", strip(name));
        push_pairs(&mut out, values, false);
        Ok(out + "}<end_function_response>")
    };
    match &message["content"] {
        Value::Null => {}
        content @ Value::Object(map) if !map.is_empty() => *out += &named(content)?,
        Value::String(content) if !content.is_empty() => {
            let name = message["name"].as_str().ok_or_else(unnamed)?;
            let name = strip(name);
            *out += &format!(
                "<start_function_response>response:{name}{{value:<escape>{content}<escape>}}<end_function_response>"
            );
        }
        Value::Array(items) => {
            for item in items {
                if !item.is_object() {
                    bail!("a list of tool responses may hold objects only");
                }
                *out += &named(item)?;
            }
        }
        content if truthy(content) => {
            bail!("the content of a `tool` message is neither an object, a list of them nor text")
        }
        _ => {}
    }
    Ok(Before::Response)
}

fn push_declaration(out: &mut String, tool: &Value) -> Result<()> {
    let function = &tool["function"];
    *out += "<start_function_declaration>declaration:";
    *out +=
        &format!("{}{{description:<escape>{}<escape>", name(function)?, text_or_nothing(function.get("description")));
    let parameters = &function["parameters"];
    if truthy(parameters) {
        *out += ",parameters:{";
        if let Some(properties) = parameters["properties"].as_object().filter(|map| !map.is_empty()) {
            *out += "properties:{";
            push_properties(out, properties)?;
            *out += "},";
        }
        if truthy(&parameters["required"]) {
            *out += &format!("required:[{}],", escaped_list(&parameters["required"])?);
        }
        if truthy(&parameters["type"]) {
            *out += &format!("type:<escape>{}<escape>}}", upper(parameters.get("type")));
        }
    }
    *out += "}<end_function_declaration>";
    Ok(())
}

fn push_properties(out: &mut String, properties: &Map<String, Value>) -> Result<()> {
    let kept = sorted(properties).into_iter().filter(|(key, _)| !DROPPED_PROPERTIES.contains(&key.as_str()));
    for (i, (key, schema)) in kept.enumerate() {
        if i > 0 {
            out.push(',');
        }
        *out += &format!("{key}:{{description:<escape>{}<escape>", text_or_nothing(schema.get("description")));
        let kind = upper(schema.get("type"));
        match kind.as_str() {
            "STRING" if truthy(&schema["enum"]) => {
                *out += ",enum:";
                push_value(out, &schema["enum"], true);
            }
            "OBJECT" => push_object(out, schema)?,
            "ARRAY" => push_items(out, &schema["items"])?,
            _ => {}
        }
        *out += &format!(",type:<escape>{kind}<escape>}}");
    }
    Ok(())
}

fn push_object(out: &mut String, schema: &Value) -> Result<()> {
    *out += ",properties:{";
    if let Some(properties) = schema["properties"].as_object().or(schema.as_object()) {
        push_properties(out, properties)?;
    }
    out.push('}');
    if truthy(&schema["required"]) {
        *out += &format!(",required:[{}]", escaped_list(&schema["required"])?);
    }
    Ok(())
}

fn push_items(out: &mut String, items: &Value) -> Result<()> {
    let Some(items) = items.as_object().filter(|map| !map.is_empty()) else { return Ok(()) };
    *out += ",items:{";
    for (i, (key, value)) in sorted(items).into_iter().filter(|(_, value)| !value.is_null()).enumerate() {
        if i > 0 {
            out.push(',');
        }
        *out += &format!("{key}:");
        match (key.as_str(), value) {
            ("properties", value) => {
                out.push('{');
                if let Value::Object(properties) = value {
                    push_properties(out, properties)?;
                }
                out.push('}');
            }
            ("required", value) => *out += &format!("[{}]", escaped_list(value)?),
            ("type", Value::String(kind)) => push_value(out, &kind.to_uppercase().into(), true),
            ("type", kinds) => push_value(out, &upper_each(kinds)?, true),
            (_, value) => push_value(out, value, true),
        }
    }
    out.push('}');
    Ok(())
}

/// A value in the call syntax; keys are written between `<escape>` in declarations, bare in calls and responses.
fn push_value(out: &mut String, value: &Value, escape_keys: bool) {
    match value {
        Value::String(text) => *out += &format!("<escape>{text}<escape>"),
        Value::Bool(flag) => *out += if *flag { "true" } else { "false" },
        Value::Object(map) => {
            out.push('{');
            push_pairs(out, map, escape_keys);
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                push_value(out, item, escape_keys);
            }
            out.push(']');
        }
        other => *out += &text(other),
    }
}

fn push_pairs(out: &mut String, map: &Map<String, Value>, escape_keys: bool) {
    for (i, (key, value)) in sorted(map).into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        *out += &if escape_keys { format!("<escape>{key}<escape>:") } else { format!("{key}:") };
        push_value(out, value, escape_keys);
    }
}

fn name(function: &Value) -> Result<&str> {
    function["name"].as_str().ok_or_else(|| err!("a tool or call has no `function` with a `name`"))
}

/// Pairs by key, upper and lower case alike; equal keys keep their order.
fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut pairs: Vec<_> = map.iter().collect();
    pairs.sort_by_cached_key(|(key, _)| key.to_lowercase());
    pairs
}

fn escaped_list(value: &Value) -> Result<String> {
    let items = value.as_array().ok_or_else(|| err!("`required` is not a list of names but `{value}`"))?;
    Ok(items.iter().map(|item| format!("<escape>{}<escape>", text(item))).collect::<Vec<_>>().join(","))
}

fn upper(value: Option<&Value>) -> String {
    text_or_nothing(value).to_uppercase()
}

/// A list of types, each in capitals.
fn upper_each(kinds: &Value) -> Result<Value> {
    match kinds {
        Value::Array(kinds) => Ok(kinds.iter().map(|kind| upper(Some(kind))).collect()),
        Value::Object(kinds) => Ok(kinds.keys().map(|kind| kind.to_uppercase()).collect()),
        other => Err(err!("the `type` of array items is neither a name nor a list of names but `{other}`")),
    }
}

fn text_or_nothing(value: Option<&Value>) -> String {
    value.map(text).unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}
