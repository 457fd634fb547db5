//! Dataset rows in every form that TRL, the FunctionGemma tutorial and others use, brought into one shape.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::calls::modernise;
use super::forms::{self, Converted, Fields, Form, read_list};
use super::json;
use super::messages::normalize_messages;
use super::tools::{normalize_tools, tool_name};
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
    /// What it was written as.
    pub form: Form,
    /// What the row says of itself in `metadata` or `split` (mobile-actions: `train` or `eval`).
    pub split: Option<String>,
}

/// A conversation to be rendered by the chat template, or text that is used as it is.
#[derive(Clone, Debug, PartialEq, Hash)]
pub enum RowContent {
    /// `messages` in OpenAI form with call arguments as objects; `tools` as `{"type": "function", "function": {..}}`.
    /// `prompt_messages`: how many of the messages are the prompt, where the row says so.
    /// Rows of one dataset share a list of tools that stays the same.
    Chat { messages: Vec<Value>, tools: Arc<Vec<Value>>, prompt_messages: Option<usize> },
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
    /// A field's name, and that of the dataset's column which is taken for it.
    pub columns: Vec<(String, String)>,
    /// Take a tool's response that is the JSON text of an object for that object.
    pub parse_tool_responses: bool,
}

impl Row {
    /// A row from its JSON object.
    ///
    /// # Errors
    /// Names `file:line`: an unknown form, a missing field, an unknown role, arguments that are no object.
    pub fn from_json(value: Value, origin: Origin, options: &RowOptions) -> Result<Self> {
        let place = || format!("bad row at `{origin}`");
        let Value::Object(mut row) = value else {
            return Err(err!("the row is not a JSON object").hint(forms::FORMS)).context(place);
        };
        rename(&mut row, &options.columns).context(place)?;
        let (content, form) = read_content(&row, options).context(place)?;
        let word = |key: &str| row.get(key).and_then(Value::as_str).map(str::to_string);
        let split = word("metadata").or_else(|| word("split"));
        Ok(Self { origin, content, form, split })
    }

    /// Refuses calls of tools that the row does not declare: a model that is trained on them learns to invent tools.
    ///
    /// # Errors
    /// Names `file:line` and the call.
    pub fn check_calls(&self) -> Result<()> {
        let RowContent::Chat { messages, tools, .. } = &self.content else { return Ok(()) };
        let calls = messages.iter().filter_map(|message| message["tool_calls"].as_array()).flatten();
        let mut names = calls.filter_map(|call| call["function"]["name"].as_str());
        let declared = |name: &str| tools.iter().any(|tool| tool_name(tool) == Some(name));
        let Some(name) = names.find(|name| !declared(name)) else { return Ok(()) };
        let error = if tools.is_empty() {
            err!("the row calls `{name}` but declares no tools")
                .hint("give them with `--tools FILE`, or as the row's `tools`")
        } else {
            err!("the row calls `{name}`, which is not among the tools `{}`", self.tool_names().join("`, `"))
        };
        Err(error.context(format!("bad row at `{}`", self.origin)))
    }

    /// The names of the tools declared in this row.
    pub fn tool_names(&self) -> Vec<&str> {
        match &self.content {
            RowContent::Chat { tools, .. } => tools.iter().filter_map(tool_name).collect(),
            RowContent::Text { .. } => Vec::new(),
        }
    }
}

/// A warning about rows that call themselves `train` and something else.
pub fn mixed_splits(rows: &[Row]) -> Option<String> {
    let mut splits: Vec<&str> = rows.iter().filter_map(|row| row.split.as_deref()).collect();
    splits.sort_unstable();
    splits.dedup();
    (splits.len() > 1).then(|| {
        format!(
            "the rows call themselves `{}` and all of them are used; `:{}` after the dataset's name picks one kind",
            splits.join("`, `"),
            splits[splits.len() - 1]
        )
    })
}

/// Gives columns the names of the fields that they are taken for.
fn rename(row: &mut Map<String, Value>, columns: &[(String, String)]) -> Result<()> {
    for (field, column) in columns {
        let Some(value) = row.remove(column) else {
            let known = row.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
            return Err(err!("the row has no `{column}`, which `--column {field}={column}` asks for")
                .hint(format!("the row has {known}")));
        };
        if row.insert(field.clone(), value).is_some_and(|before| !before.is_null()) {
            return Err(err!("the row has a `{field}` beside the `{column}` that `--column` takes for it")
                .hint("leave out `--column`, or remove one of the two"));
        }
    }
    Ok(())
}

fn read_content(row: &Map<String, Value>, options: &RowOptions) -> Result<(RowContent, Form)> {
    let fields = Fields::of(row)?;
    let plain = |content| (content, Form { fields, ..Form::default() });
    let converted = match fields {
        Fields::PromptCompletion => return prompt_row(row, options, fields),
        Fields::Tutorial => return tutorial_row(row, options).map(plain),
        Fields::Text => {
            let Some(text) = row["text"].as_str().filter(|text| !text.is_empty()) else {
                bail!("`text` is empty or not a string")
            };
            return Ok(plain(RowContent::Text { prompt: None, text: text.into() }));
        }
        Fields::Messages => {
            let messages = read_list(&row["messages"], "messages")?;
            let given = |key: &str| row.get(key).filter(|tools| !tools.is_null()).cloned();
            // OpenAI called tools functions once.
            Converted { messages, tools: given("tools").or_else(|| given("functions")), needs_system: false }
        }
        Fields::Xlam => forms::xlam(row)?,
        Fields::ShareGpt => forms::sharegpt(row)?,
        Fields::Alpaca => forms::alpaca(row)?,
    };
    chat_row(converted, None, options, fields)
}

fn prompt_row(row: &Map<String, Value>, options: &RowOptions, fields: Fields) -> Result<(RowContent, Form)> {
    let field = |key: &str| row.get(key).filter(|value| !value.is_null());
    let prompt = field("prompt").ok_or_else(|| err!("the row misses `prompt`"))?;
    let completion = field("completion").ok_or_else(|| err!("the row misses `completion`"))?;
    match (prompt, completion) {
        (Value::String(_), Value::String(text)) if text.is_empty() => bail!("`completion` is empty"),
        (Value::String(prompt), Value::String(text)) => {
            let content = RowContent::Text { prompt: Some(prompt.clone()), text: text.clone() };
            Ok((content, Form { fields, ..Form::default() }))
        }
        (Value::Array(prompt), Value::Array(completion)) => {
            if prompt.is_empty() || completion.is_empty() {
                bail!("`prompt` and `completion` need at least one message each");
            }
            let messages = [&prompt[..], completion].concat();
            let converted = Converted { messages, tools: field("tools").cloned(), needs_system: false };
            chat_row(converted, Some(prompt.len()), options, fields)
        }
        _ => Err(err!("`prompt` and `completion` are neither two strings nor two lists of messages")),
    }
}

/// `prompt_messages`: how many of the messages are the prompt, where the row says so.
fn chat_row(
    converted: Converted,
    prompt_messages: Option<usize>,
    options: &RowOptions,
    fields: Fields,
) -> Result<(RowContent, Form)> {
    let Converted { messages, tools, needs_system } = converted;
    let modern = modernise(messages, prompt_messages)?;
    let (tools, wrote_out_schemas) = match tools.or(modern.tools) {
        Some(tools) => normalize_tools(&tools)?,
        None => (options.tools.clone().unwrap_or_default(), false),
    };
    let mut prompt_messages = modern.prompt_messages;
    let mut messages = normalize_messages(modern.messages)?;
    if options.parse_tool_responses {
        messages.iter_mut().for_each(parse_tool_response);
    }
    let has_system = matches!(messages[0]["role"].as_str(), Some("system" | "developer"));
    let tutorials = (modern.lost_system || needs_system && !tools.is_empty()).then_some(TUTORIAL_SYSTEM);
    if let Some(system) = options.system.as_deref().or(tutorials).filter(|_| !has_system) {
        messages.insert(0, json!({"role": "developer", "content": system}));
        prompt_messages = prompt_messages.map(|count| count + 1);
    }
    let form = Form { fields, calls: modern.style, wrote_out_schemas };
    Ok((RowContent::Chat { messages, tools: tools.into(), prompt_messages }, form))
}

/// Most datasets give a tool's response as text, which the template writes as one quoted string.
fn parse_tool_response(message: &mut Value) {
    if message["role"] == "tool"
        && let Some(object @ Value::Object(_)) = message["content"].as_str().and_then(|text| json::parse(text).ok())
    {
        message["content"] = object;
    }
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
    Ok(RowContent::Chat { messages, tools: tools.into(), prompt_messages: None })
}
