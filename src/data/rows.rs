//! Dataset rows in every form that TRL and the FunctionGemma tutorial use, brought into one shape.

use std::fmt;

use serde_json::{Map, Value, json};

use super::messages::normalize_messages;
use super::tools::{dropped_property_warnings, normalize_tools, tool_name};
use crate::error::{Context, Result};
use crate::{bail, err};

/// The developer message of the FunctionGemma tutorial.
pub const TUTORIAL_SYSTEM: &str = "You are a model that can do function calling with the following functions";

/// Where a row came from; shown as `file:line`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub file: String,
    /// Line of a JSONL file; number of the row in a JSON array or a parquet file. From 1.
    pub line: usize,
}

impl Origin {
    pub fn new(file: impl Into<String>, line: usize) -> Self {
        Self { file: file.into(), line }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// One row of a dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub origin: Origin,
    pub content: RowContent,
    /// What the row says of itself in `metadata` or `split` (mobile-actions: `train` or `eval`).
    pub split: Option<String>,
}

/// A conversation to be rendered by the chat template, or text that is used as it is.
#[derive(Clone, Debug, PartialEq)]
pub enum RowContent {
    /// `messages` in OpenAI form with call arguments as objects; `tools` as `{"type": "function", "function": {..}}`.
    /// `prompt_messages`: how many of the messages are the prompt, where the row says so.
    Chat { messages: Vec<Value>, tools: Vec<Value>, prompt_messages: Option<usize> },
    /// `text` alone, or a `prompt` and the `text` that completes it. Control tokens in it are control tokens.
    Text { prompt: Option<String>, text: String },
}

/// What the command line adds to rows.
#[derive(Clone, Debug, Default)]
pub struct RowOptions {
    /// Tools of rows that carry none.
    pub tools: Option<Vec<Value>>,
    /// Developer message of rows that have none.
    pub system: Option<String>,
}

impl Row {
    /// A row from its JSON object.
    ///
    /// # Errors
    /// Names `file:line`: an unknown form, a missing field, an unknown role, arguments that are no object.
    pub fn from_json(value: Value, origin: Origin, options: &RowOptions) -> Result<Self> {
        let content = read_content(&value, options).context(|| format!("bad row at `{origin}`"))?;
        let split = value["metadata"].as_str().or(value["split"].as_str()).map(str::to_string);
        Ok(Self { origin, content, split })
    }

    /// The names of the tools declared in this row.
    pub fn tool_names(&self) -> Vec<&str> {
        match &self.content {
            RowContent::Chat { tools, .. } => tools.iter().filter_map(tool_name).collect(),
            RowContent::Text { .. } => Vec::new(),
        }
    }
}

/// What a user should know about `rows` before training on them: tool properties that the template leaves out (of
/// the first hundred distinct lists of tools), and a mix of rows that call themselves `train` and something else.
pub fn row_warnings(rows: &[Row]) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut seen: Vec<&[Value]> = Vec::new();
    for row in rows {
        if let RowContent::Chat { tools, .. } = &row.content
            && seen.len() < 100
            && !seen.contains(&&tools[..])
        {
            seen.push(tools);
            warnings.extend(dropped_property_warnings(tools));
        }
    }
    let mut splits: Vec<&str> = rows.iter().filter_map(|row| row.split.as_deref()).collect();
    splits.sort_unstable();
    splits.dedup();
    if splits.len() > 1 {
        warnings.push(format!(
            "the rows call themselves `{}` and all of them are used; `:{}` after the dataset's name picks one kind",
            splits.join("`, `"),
            splits[splits.len() - 1]
        ));
    }
    warnings.dedup();
    warnings
}

fn read_content(value: &Value, options: &RowOptions) -> Result<RowContent> {
    let Value::Object(row) = value else {
        return Err(err!("the row is not a JSON object").hint(FORMS));
    };
    let has = |key: &str| row.get(key).is_some_and(|value| !value.is_null());
    if has("messages") {
        chat_row(row, read_list(&row["messages"], "messages")?, None, options)
    } else if has("prompt") || has("completion") {
        prompt_row(row, options)
    } else if has("text") {
        let Some(text) = row["text"].as_str().filter(|text| !text.is_empty()) else {
            bail!("`text` is empty or not a string")
        };
        Ok(RowContent::Text { prompt: None, text: text.into() })
    } else if has("user_content") {
        tutorial_row(row, options)
    } else if row.is_empty() {
        Err(err!("the row is empty").hint(FORMS))
    } else {
        let keys = row.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        Err(err!("the row has {keys}, which is no known form").hint(FORMS))
    }
}

const FORMS: &str = "a row is {\"messages\", \"tools\"}, {\"prompt\", \"completion\"}, {\"text\"} \
                     or {\"user_content\", \"tool_name\", \"tool_arguments\"}";

fn prompt_row(row: &Map<String, Value>, options: &RowOptions) -> Result<RowContent> {
    let field = |key: &str| row.get(key).filter(|value| !value.is_null());
    let prompt = field("prompt").ok_or_else(|| err!("the row misses `prompt`"))?;
    let completion = field("completion").ok_or_else(|| err!("the row misses `completion`"))?;
    match (prompt, completion) {
        (Value::String(_), Value::String(text)) if text.is_empty() => bail!("`completion` is empty"),
        (Value::String(prompt), Value::String(text)) => {
            Ok(RowContent::Text { prompt: Some(prompt.clone()), text: text.clone() })
        }
        (Value::Array(prompt), Value::Array(completion)) => {
            if prompt.is_empty() || completion.is_empty() {
                bail!("`prompt` and `completion` need at least one message each");
            }
            chat_row(row, [&prompt[..], completion].concat(), Some(prompt.len()), options)
        }
        _ => Err(err!("`prompt` and `completion` are neither two strings nor two lists of messages")),
    }
}

fn chat_row(
    row: &Map<String, Value>,
    messages: Vec<Value>,
    mut prompt_messages: Option<usize>,
    options: &RowOptions,
) -> Result<RowContent> {
    let tools = match row.get("tools").filter(|tools| !tools.is_null()) {
        Some(tools) => normalize_tools(tools)?,
        None => options.tools.clone().unwrap_or_default(),
    };
    let mut messages = normalize_messages(messages)?;
    let has_system = matches!(messages[0]["role"].as_str(), Some("system" | "developer"));
    if let Some(system) = options.system.as_ref().filter(|_| !has_system) {
        messages.insert(0, json!({"role": "developer", "content": system}));
        prompt_messages = prompt_messages.map(|count| count + 1);
    }
    Ok(RowContent::Chat { messages, tools, prompt_messages })
}

fn tutorial_row(row: &Map<String, Value>, options: &RowOptions) -> Result<RowContent> {
    let field = |key: &str| match row.get(key) {
        Some(value) if !value.is_null() => Ok(value),
        _ => Err(err!("the row misses `{key}`")),
    };
    let Some(tools) = options.tools.clone() else {
        return Err(err!("the row names a tool but no tools are declared").hint("give them with `--tools FILE`"));
    };
    let name = field("tool_name")?.as_str().ok_or_else(|| err!("`tool_name` is not a string"))?;
    if !tools.iter().any(|tool| tool_name(tool) == Some(name)) {
        let known = tools.iter().filter_map(tool_name).collect::<Vec<_>>().join("`, `");
        return Err(err!("the row calls `{name}`, which is not among the tools `{known}`"));
    }
    let call = json!({"name": name, "arguments": field("tool_arguments")?});
    let messages = normalize_messages(vec![
        json!({"role": "developer", "content": options.system.as_deref().unwrap_or(TUTORIAL_SYSTEM)}),
        json!({"role": "user", "content": field("user_content")?}),
        json!({"role": "assistant", "tool_calls": [{"type": "function", "function": call}]}),
    ])?;
    Ok(RowContent::Chat { messages, tools, prompt_messages: None })
}

/// A list that some datasets store as its JSON text.
fn read_list(value: &Value, name: &str) -> Result<Vec<Value>> {
    match value {
        Value::Array(items) => Ok(items.clone()),
        Value::String(text) => serde_json::from_str(text).context(|| format!("`{name}` is a string but no JSON list")),
        _ => Err(err!("`{name}` is not a list")),
    }
}
