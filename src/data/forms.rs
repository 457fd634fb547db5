//! The forms that rows come in, and those of other trainers as messages and tools.

use std::fmt;

use serde_json::{Map, Value, json};

use super::calls::CallStyle;
use super::json;
use super::xlam::with_schemas;
use crate::error::{Context, Error, Result};
use crate::{bail, err};

/// The fields by which a row is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fields {
    /// OpenAI's messages.
    #[default]
    Messages,
    /// TRL's prompt and completion, both text or both messages.
    PromptCompletion,
    /// Plain text.
    Text,
    /// The FunctionGemma tutorial's.
    Tutorial,
    /// `query`, `tools` and `answers`, as in xlam-function-calling-60k.
    Xlam,
    /// `conversations` of `from` and `value`.
    ShareGpt,
    /// `instruction`, `input` and `output`.
    Alpaca,
}

/// What a row was recognised as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Form {
    pub fields: Fields,
    pub calls: CallStyle,
    /// Whether `$ref` or `anyOf` in its tools was written out.
    pub wrote_out_schemas: bool,
}

/// For the hint of an error.
pub const FORMS: &str = "a row is {\"messages\", \"tools\"}, {\"prompt\", \"completion\"}, {\"text\"}, \
                         {\"user_content\", \"tool_name\", \"tool_arguments\"}, {\"query\", \"tools\", \"answers\"}, \
                         {\"conversations\"} or {\"instruction\", \"input\", \"output\"}; \
                         `--column user_content=question` takes the column `question` for one of these";

/// What `--column` may give another name.
pub const COLUMNS: [&str; 18] = [
    "messages",
    "tools",
    "prompt",
    "completion",
    "text",
    "user_content",
    "tool_name",
    "tool_arguments",
    "query",
    "answers",
    "conversations",
    "instruction",
    "input",
    "output",
    "system",
    "functions",
    "metadata",
    "split",
];

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.fields {
            Fields::Messages => "messages",
            Fields::PromptCompletion => "prompts and completions",
            Fields::Text => "plain text",
            Fields::Tutorial => "the tutorial's form",
            Fields::Xlam => "xLAM's form",
            Fields::ShareGpt => "ShareGPT's form",
            Fields::Alpaca => "Alpaca's form",
        })?;
        f.write_str(match self.calls {
            CallStyle::ToolCalls => "",
            CallStyle::FunctionCall => " with OpenAI's older `function_call`",
            CallStyle::Text => " with Hermes' `<tool_call>` text",
        })
    }
}

impl Fields {
    /// Which of the forms a row has.
    ///
    /// # Errors
    /// None of them.
    pub fn of(row: &Map<String, Value>) -> Result<Self> {
        let has = |key: &str| row.get(key).is_some_and(|value| !value.is_null());
        let forms = [
            (Self::Messages, has("messages")),
            (Self::PromptCompletion, has("prompt") || has("completion")),
            (Self::Text, has("text")),
            (Self::Tutorial, has("user_content")),
            (Self::ShareGpt, has("conversations")),
            (Self::Xlam, has("answers") && (has("query") || has("tools"))),
            (Self::Alpaca, has("instruction") && has("output")),
        ];
        let found = forms.into_iter().find(|(_, is)| *is).map(|(form, _)| form);
        found.ok_or_else(|| unknown(row).hint(FORMS))
    }
}

fn unknown(row: &Map<String, Value>) -> Error {
    let names = |keys: Vec<&String>| keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    if row.is_empty() {
        return err!("the row is empty");
    }
    let nulls: Vec<&String> = row.iter().filter(|(_, value)| value.is_null()).map(|(key, _)| key).collect();
    if nulls.iter().any(|key| COLUMNS.contains(&key.as_str())) {
        return err!("nothing is in the row's {}: it is null", names(nulls));
    }
    err!("the row has {}, which is no known form", names(row.keys().collect()))
}

/// A row of another trainer as messages, and its tools where it has some.
pub struct Converted {
    pub messages: Vec<Value>,
    pub tools: Option<Value>,
    /// Whether the row has no system message because its form knows none.
    pub needs_system: bool,
}

/// xLAM's: a question, tools, and the calls that answer it; both as JSON or as its text.
///
/// # Errors
/// A field is missing, or no list.
pub fn xlam(row: &Map<String, Value>) -> Result<Converted> {
    let query = row.get("query").filter(|query| !query.is_null()).ok_or_else(|| err!("the row misses `query`"))?;
    let answers = read_list(&row["answers"], "answers")?;
    if answers.is_empty() {
        return Err(err!("the row's `answers` are empty, so that there is nothing to learn from it")
            .hint("remove the row, or write what the model should say as `messages`"));
    }
    let messages = vec![json!({"role": "user", "content": query}), json!({"role": "assistant", "tool_calls": answers})];
    let tools = row.get("tools").filter(|tools| !is_blank(tools)).map(|tools| read_list(tools, "tools")).transpose()?;
    let tools = tools.map(with_schemas).map(Value::from);
    Ok(Converted { messages, tools, needs_system: true })
}

/// Alpaca's: an instruction, with an input or without, and the output.
///
/// # Errors
/// A field is no text.
pub fn alpaca(row: &Map<String, Value>) -> Result<Converted> {
    let text = |key: &str| match row.get(key) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(err!("`{key}` is not a string")),
    };
    let (instruction, input, output) = (text("instruction")?, text("input")?, text("output")?);
    if output.is_empty() {
        bail!("`output` is empty");
    }
    let user = if input.trim().is_empty() { instruction.into() } else { format!("{instruction}\n\n{input}") };
    let mut messages = vec![json!({"role": "user", "content": user}), json!({"role": "assistant", "content": output})];
    add_system(row, &mut messages)?;
    let tools = row.get("tools").filter(|tools| !is_blank(tools)).cloned();
    Ok(Converted { messages, tools, needs_system: false })
}

/// ShareGPT's: turns of `from` and `value`; also the calls and observations that LLaMA-Factory writes so.
///
/// # Errors
/// A turn (counted from 1) that is none, or is from nobody who is known.
pub fn sharegpt(row: &Map<String, Value>) -> Result<Converted> {
    let turns = read_list(&row["conversations"], "conversations")?;
    if turns.is_empty() {
        return Err(err!("the row's `conversations` are empty").hint(FORMS));
    }
    let turn = |(i, turn): (usize, &Value)| sharegpt_turn(turn).context(|| format!("in turn {}", i + 1));
    let mut messages = turns.iter().enumerate().map(turn).collect::<Result<Vec<_>>>()?;
    add_system(row, &mut messages)?;
    let tools = row.get("tools").filter(|tools| !is_blank(tools)).cloned();
    Ok(Converted { messages, tools, needs_system: false })
}

fn sharegpt_turn(turn: &Value) -> Result<Value> {
    let Value::Object(turn) = turn else { bail!("a turn is not a JSON object") };
    if turn.contains_key("role") && !turn.contains_key("from") {
        return Ok(Value::Object(turn.clone()));
    }
    let Some(from) = turn.get("from").and_then(Value::as_str) else {
        return Err(err!("the turn misses `from`").hint("a turn is {\"from\": \"human\", \"value\": \"..\"}"));
    };
    let Some(value) = turn.get("value").filter(|value| !value.is_null()) else { bail!("the turn misses `value`") };
    let role = match from {
        "human" | "user" => "user",
        "gpt" | "assistant" | "model" | "chatgpt" | "bot" => "assistant",
        "system" | "developer" => from,
        "tool" | "observation" | "function_response" | "function" => "tool",
        "function_call" => return Ok(json!({"role": "assistant", "tool_calls": function_calls(value)?})),
        _ => {
            return Err(err!("the turn is from `{from}`, whom nobody knows")
                .hint("a turn is from `system`, `human`, `gpt`, `function_call` or `observation`"));
        }
    };
    Ok(json!({"role": role, "content": value}))
}

/// One call or a list of them, as JSON or as its text.
fn function_calls(value: &Value) -> Result<Vec<Value>> {
    let parsed = match value {
        Value::String(text) => json::parse(text)
            .map_err(|error| err!("the function call is a string that is not JSON: {}", json::reason(&error)))?,
        other => other.clone(),
    };
    Ok(match parsed {
        Value::Array(calls) => calls,
        call => vec![call],
    })
}

fn add_system(row: &Map<String, Value>, messages: &mut Vec<Value>) -> Result<()> {
    match row.get("system") {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) if text.trim().is_empty() => {}
        Some(Value::String(text)) => messages.insert(0, json!({"role": "system", "content": text})),
        Some(_) => bail!("`system` is not a string"),
    }
    Ok(())
}

/// Null, or a text of nothing.
fn is_blank(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
}

/// A list that some datasets store as its JSON text.
///
/// # Errors
/// It is neither.
pub fn read_list(value: &Value, name: &str) -> Result<Vec<Value>> {
    match value {
        Value::Array(items) => Ok(items.clone()),
        Value::String(text) => match json::parse(text) {
            Ok(Value::Array(items)) => Ok(items),
            Ok(_) => Err(err!("`{name}` is a string but no JSON list")),
            Err(error) => Err(err!("`{name}` is a string but no JSON list: {}", json::reason(&error))),
        },
        _ => Err(err!("`{name}` is not a list")),
    }
}
