//! Calls that are written otherwise than as `tool_calls`: OpenAI's older `function_call`, and Hermes' `<tool_call>` text.

use serde_json::{Map, Value, json};

use super::json;
use super::repr::parse_json_or_repr;
use crate::error::{Context, Result};
use crate::{bail, err};

/// How a row writes its calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallStyle {
    /// As `tool_calls`, or not at all.
    #[default]
    ToolCalls,
    /// As `function_call` of a message, answered by the role `function`.
    FunctionCall,
    /// Between `<tool_call>` and `</tool_call>` in an answer's text.
    Text,
}

const CALL: (&str, &str) = ("<tool_call>", "</tool_call>");
const RESPONSE: (&str, &str) = ("<tool_response>", "</tool_response>");
const TOOLS: (&str, &str) = ("<tools>", "</tools>");

/// Messages with all calls as `tool_calls`.
pub struct Modern {
    pub messages: Vec<Value>,
    pub style: CallStyle,
    /// The tools that a system message for Hermes declared in its text. That message is gone: it asks for Hermes' format.
    pub tools: Option<Value>,
    /// Whether there was such a message.
    pub lost_system: bool,
    /// How many of the messages are the prompt, where that is known.
    pub prompt_messages: Option<usize>,
}

/// `messages` with all calls as `tool_calls`, of which the first `prompt_messages` are the prompt. What is no message stays as
/// it is, to be refused later.
///
/// # Errors
/// A message (counted from 1) whose call cannot be read.
pub fn modernise(messages: Vec<Value>, prompt_messages: Option<usize>) -> Result<Modern> {
    let mut out = Modern {
        messages: Vec::with_capacity(messages.len()),
        style: CallStyle::ToolCalls,
        tools: None,
        lost_system: false,
        prompt_messages,
    };
    // Names of the calls that are not answered yet.
    let mut open: Vec<Value> = Vec::new();
    for (i, message) in messages.into_iter().enumerate() {
        if prompt_messages == Some(i) {
            out.prompt_messages = Some(out.messages.len());
        }
        let place = || format!("in message {}", i + 1);
        let Value::Object(message) = message else {
            out.messages.push(message);
            continue;
        };
        match message.get("role").and_then(Value::as_str) {
            Some("system" | "developer") if out.messages.is_empty() => out.opening(message).context(place)?,
            Some("assistant") => {
                let message = out.answer(message).context(place)?;
                let calls = message.get("tool_calls").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                let name = |call: &Value| call["function"].get("name").or(call.get("name")).cloned();
                open = calls.iter().filter_map(name).collect();
                out.messages.push(message.into());
            }
            Some("tool" | "function") => out.response(message, &mut open),
            _ => out.messages.push(message.into()),
        }
    }
    Ok(out)
}

impl Modern {
    /// A system message, unless it declares tools for Hermes.
    fn opening(&mut self, message: Map<String, Value>) -> Result<()> {
        let text = message.get("content").and_then(Value::as_str).unwrap_or_default();
        // The text may speak of `<tools></tools>` before it comes to the tools.
        let blocks = between(text, TOOLS);
        let block = blocks.iter().rfind(|block| !block.trim().is_empty());
        let Some(block) = block.filter(|_| text.contains(CALL.0)) else {
            self.messages.push(message.into());
            return Ok(());
        };
        self.tools = Some(declarations(block)?);
        (self.style, self.lost_system) = (CallStyle::Text, true);
        Ok(())
    }

    fn answer(&mut self, mut message: Map<String, Value>) -> Result<Map<String, Value>> {
        let has_calls = match message.get("tool_calls") {
            None | Some(Value::Null) => false,
            Some(calls) => calls.as_array().is_none_or(|calls| !calls.is_empty()),
        };
        match message.remove("function_call") {
            None | Some(Value::Null) => {}
            Some(_) if has_calls => bail!("the message has both `tool_calls` and `function_call`"),
            Some(call @ Value::Object(_)) => {
                message.insert("tool_calls".into(), json!([{"type": "function", "function": call}]));
                self.style = CallStyle::FunctionCall;
                return Ok(message);
            }
            Some(_) => bail!("`function_call` is not a JSON object"),
        }
        let text = message.get("content").and_then(Value::as_str).unwrap_or_default();
        let blocks = between(text, CALL);
        if blocks.is_empty() || has_calls {
            return Ok(message);
        }
        let calls = blocks.iter().map(|block| text_call(block)).collect::<Result<Vec<_>>>()?;
        let prose = without(text, CALL);
        message.insert("tool_calls".into(), calls.into());
        match prose.is_empty() {
            true => message.remove("content"),
            false => message.insert("content".into(), prose.into()),
        };
        self.style = CallStyle::Text;
        Ok(message)
    }

    /// The answer of a tool, one message for each; named after the calls where nothing else names it.
    fn response(&mut self, mut message: Map<String, Value>, open: &mut Vec<Value>) {
        if message.get("role").is_some_and(|role| role == "function") {
            message.insert("role".into(), "tool".into());
        }
        let text = message.get("content").and_then(Value::as_str).unwrap_or_default();
        let blocks: Vec<String> = between(text, RESPONSE).into_iter().map(str::to_string).collect();
        if blocks.is_empty() {
            name_response(&mut message, open);
            self.messages.push(message.into());
            return;
        }
        for block in blocks {
            let mut message = message.clone();
            let (name, content) = text_response(block.trim());
            message.insert("content".into(), content);
            if let Some(name) = name {
                message.insert("name".into(), name);
            }
            name_response(&mut message, open);
            self.messages.push(message.into());
        }
    }
}

/// Tools in the text of a system message: a list, or one after the other.
fn declarations(block: &str) -> Result<Value> {
    let whole = parse_json_or_repr(block.trim());
    if let Ok(list @ Value::Array(_)) = whole {
        return Ok(list);
    }
    let lines = block.lines().filter(|line| !line.trim().is_empty());
    let tools = lines.map(|line| parse_json_or_repr(line.trim()).ok()).collect::<Option<Vec<_>>>();
    match (whole, tools) {
        (Ok(tool), _) => Ok(json!([tool])),
        (Err(_), Some(tools)) => Ok(tools.into()),
        (Err(error), None) => {
            Err(err!("what stands between `<tools>` and `</tools>` is not JSON: {}", json::reason(&error)))
        }
    }
}

fn text_call(block: &str) -> Result<Value> {
    let call = parse_json_or_repr(block.trim()).map_err(|error| {
        err!("what stands in `<tool_call>` is not JSON: {}", json::reason(&error))
            .hint("a call is <tool_call>{\"name\": .., \"arguments\": {..}}</tool_call>")
    })?;
    Ok(json!({"type": "function", "function": call}))
}

/// Who answered, where the text says it, and what.
fn text_response(block: &str) -> (Option<Value>, Value) {
    match parse_json_or_repr(block) {
        Ok(Value::Object(mut response)) => match (response.remove("name"), response.remove("content")) {
            (Some(name), Some(content)) if response.is_empty() && (content.is_object() || content.is_string()) => {
                (Some(name), content)
            }
            (name, content) => {
                response.extend(name.map(|name| ("name".to_string(), name)));
                response.extend(content.map(|content| ("content".to_string(), content)));
                (None, response.into())
            }
        },
        _ => (None, block.into()),
    }
}

/// Gives a response the name of the first call that is still open. One that names its call otherwise is left alone.
fn name_response(message: &mut Map<String, Value>, open: &mut Vec<Value>) {
    let has = |key: &str| message.get(key).is_some_and(|value| !value.is_null());
    if !has("name") && !has("tool_call_id") && !open.is_empty() && !names_itself(message) {
        message.insert("name".into(), open.remove(0));
    }
}

/// Whether the content is `{"name", "response"}`, or a list of these.
fn names_itself(message: &Map<String, Value>) -> bool {
    let is_named = |value: &Value| value.get("name").is_some() && value.get("response").is_some();
    let content = message.get("content").unwrap_or(&Value::Null);
    is_named(content) || content.as_array().is_some_and(|items| items.iter().any(is_named))
}

/// What stands between the tags, for each pair of them.
fn between<'a>(text: &'a str, (open, close): (&str, &str)) -> Vec<&'a str> {
    let pieces = text.split(open).skip(1);
    pieces.filter_map(|piece| piece.split_once(close)).map(|(inner, _)| inner).collect()
}

/// The text without the tags and what they hold.
fn without(text: &str, (open, close): (&str, &str)) -> String {
    let mut pieces = text.split(open);
    let mut out = pieces.next().unwrap_or_default().to_string();
    for piece in pieces {
        out += piece.split_once(close).map_or(piece, |(_, rest)| rest);
    }
    out.trim().into()
}
