//! Checks and normalises chat messages: known roles, contents of the right type, call arguments as objects.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::json;
use crate::error::{Context, Result};
use crate::{bail, err};

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// `messages` in OpenAI form, with arguments that came as JSON strings parsed to objects, bare calls wrapped in
/// `{"type": "function", "function": ..}` and tool responses named after the call that their `tool_call_id` names.
///
/// # Errors
/// No messages, or a message (counted from 1) with an unknown role, without content, or with a malformed call.
pub fn normalize_messages(messages: Vec<Value>) -> Result<Vec<Value>> {
    if messages.is_empty() {
        bail!("there are no messages");
    }
    let mut call_names = HashMap::new();
    let mut out = Vec::with_capacity(messages.len());
    for (i, message) in messages.into_iter().enumerate() {
        let message = normalize_message(message, &mut call_names).context(|| format!("in message {}", i + 1))?;
        out.push(Value::Object(message));
    }
    Ok(out)
}

fn normalize_message(message: Value, call_names: &mut HashMap<String, Value>) -> Result<Map<String, Value>> {
    let Value::Object(mut message) = message else { bail!("a message is not a JSON object") };
    let role = match message.get("role") {
        Some(Value::String(role)) if ROLES.contains(&role.as_str()) => role.clone(),
        None | Some(Value::Null) => bail!("the message misses `role`"),
        Some(other) => {
            let known = ROLES.join("`, `");
            return Err(err!("the role {other} is unknown").hint(format!("a role is one of `{known}`")));
        }
    };
    match message.remove("tool_calls") {
        None | Some(Value::Null) => {}
        Some(Value::Array(calls)) => {
            let calls = calls.into_iter().map(normalize_call).collect::<Result<Vec<_>>>()?;
            for call in &calls {
                if let Some(id) = call["id"].as_str() {
                    call_names.insert(id.to_string(), call["function"]["name"].clone());
                }
            }
            message.insert("tool_calls".into(), Value::Array(calls));
        }
        Some(_) => bail!("`tool_calls` is not a list"),
    }
    check_content(&role, &message)?;
    if role == "tool" && !message.contains_key("name") {
        let name = message.get("tool_call_id").and_then(Value::as_str).and_then(|id| call_names.get(id));
        if let Some(name) = name.cloned() {
            message.insert("name".into(), name);
        }
    }
    Ok(message)
}

fn check_content(role: &str, message: &Map<String, Value>) -> Result<()> {
    let has_calls = message.get("tool_calls").and_then(Value::as_array).is_some_and(|calls| !calls.is_empty());
    if has_calls && role != "assistant" {
        bail!("a `{role}` message cannot have `tool_calls`");
    }
    match message.get("content") {
        None | Some(Value::Null) if has_calls => Ok(()),
        None | Some(Value::Null) => bail!("the `{role}` message misses `content`"),
        Some(Value::String(_)) => Ok(()),
        Some(Value::Object(_)) if role == "tool" => Ok(()),
        Some(Value::Array(items)) if role == "tool" && items.iter().all(Value::is_object) => Ok(()),
        Some(Value::Array(parts)) if role != "tool" => parts.iter().try_for_each(check_part),
        Some(_) => bail!("the `content` of a `{role}` message is of the wrong type"),
    }
}

fn check_part(part: &Value) -> Result<()> {
    match part["type"].as_str() {
        Some("text") if part["text"].is_string() => Ok(()),
        Some("text") => bail!("a text part misses `text`"),
        Some(kind) => Err(err!("a content part is of type `{kind}`").hint("this model reads text only")),
        None => bail!("a content part misses `type`"),
    }
}

fn normalize_call(call: Value) -> Result<Value> {
    let Value::Object(mut call) = call else { bail!("a tool call is not a JSON object") };
    let function = match call.remove("function") {
        Some(Value::Object(function)) => function,
        None if call.contains_key("name") => std::mem::take(&mut call),
        _ => bail!("a tool call misses `function`"),
    };
    let Some(name) = function.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()) else {
        bail!("a tool call misses the `name` of its function")
    };
    let arguments = parse_arguments(name, function.get("arguments"))?;
    let mut function = function.clone();
    function.insert("arguments".into(), arguments);
    call.entry("type").or_insert_with(|| "function".into());
    call.insert("function".into(), Value::Object(function));
    Ok(Value::Object(call))
}

fn parse_arguments(name: &str, arguments: Option<&Value>) -> Result<Value> {
    let parsed = match arguments {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(Value::String(text)) => json::parse(text).map_err(|error| {
            err!("the arguments of `{name}` are a string that is not JSON: {}", json::reason(&error))
        })?,
        Some(other) => other.clone(),
    };
    if !parsed.is_object() {
        return Err(err!("the arguments of `{name}` are not a JSON object but `{parsed}`")
            .hint("arguments are an object such as {\"query\": \"..\"}, or that object as a JSON string"));
    }
    Ok(parsed)
}
