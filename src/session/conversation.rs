//! A conversation with a model that may call tools: what was said, what the model is asked next, and what its answer is.

use serde_json::{Value, json};

use super::Checkpoint;
use crate::chat::functiongemma::parser::{Call, parse_output};
use crate::chat::tokenizer::Prompt;
use crate::data::rows::{Origin, Row, RowContent, RowOptions, TUTORIAL_SYSTEM};
use crate::error::Result;

/// What was said so far.
#[derive(Clone, Debug)]
pub struct Conversation {
    messages: Vec<Value>,
    tools: Vec<Value>,
    /// Calls that wait for their responses, the next one first.
    open: Vec<String>,
}

/// An answer of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What it said beside calls.
    pub text: String,
    pub calls: Vec<Call>,
    /// What breaks the grammar of calls.
    pub faults: Vec<String>,
}

impl Conversation {
    /// Nothing was said yet. `system` None: with tools, the sentence that FunctionGemma was trained with.
    pub fn new(tools: Vec<Value>, system: Option<&str>) -> Self {
        let system = system.or((!tools.is_empty()).then_some(TUTORIAL_SYSTEM));
        let messages = system.map(|text| json!({"role": "developer", "content": text})).into_iter().collect();
        Self { messages, tools, open: Vec::new() }
    }

    /// The user says something.
    pub fn say(&mut self, text: &str) {
        self.messages.push(json!({"role": "user", "content": text}));
    }

    /// The tool whose response the model waits for.
    pub fn waits_for(&self) -> Option<&str> {
        self.open.first().map(String::as_str)
    }

    /// The response of the tool that the model [waits for](Self::waits_for): JSON as it is, anything else as text.
    pub fn respond(&mut self, text: &str) {
        if self.open.is_empty() {
            return;
        }
        let name = self.open.remove(0);
        let content = serde_json::from_str(text).ok().filter(Value::is_object).unwrap_or_else(|| json!(text));
        self.messages.push(json!({"role": "tool", "name": name, "content": content}));
    }

    /// What the model is given to answer.
    ///
    /// # Errors
    /// The template refuses the conversation.
    pub fn prompt(&self, checkpoint: &Checkpoint) -> Result<Prompt> {
        let row = json!({"messages": self.messages, "tools": self.tools});
        let mut row = Row::from_json(row, Origin::new("the conversation", 1), &RowOptions::default())?;
        if let RowContent::Chat { messages, prompt_messages, .. } = &mut row.content {
            *prompt_messages = Some(messages.len());
        }
        checkpoint.tokenizer.prompt(&row)
    }

    /// Takes in the answer that the model gave, `output` with its control tokens.
    pub fn answer(&mut self, output: &str) -> Answer {
        let parsed = parse_output(output);
        let calls: Vec<Value> = parsed
            .calls
            .iter()
            .map(|call| json!({"type": "function", "function": {"name": call.name, "arguments": call.arguments}}))
            .collect();
        let mut message = json!({"role": "assistant"});
        if calls.is_empty() || !parsed.prose.is_empty() {
            message["content"] = json!(parsed.prose);
        }
        if !calls.is_empty() {
            message["tool_calls"] = json!(calls);
        }
        self.messages.push(message);
        self.open = parsed.calls.iter().map(|call| call.name.clone()).collect();
        let faults = parsed.faults.iter().map(ToString::to_string).collect();
        Answer { text: parsed.prose, calls: parsed.calls, faults }
    }
}
