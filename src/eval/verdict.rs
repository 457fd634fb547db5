//! Judges one output against the answer that was expected: by the tutorial's rule and strictly.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::{Map, Number, Value, json};

use crate::bail;
use crate::chat::functiongemma::parser::{Call, Fault, ParsedOutput, parse_output};
use crate::chat::functiongemma::tokens::START_CALL;
use crate::error::{Context, Result};

/// The answer that a row's final assistant message gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expected {
    /// The calls due; empty when the right answer is prose.
    pub calls: Vec<Call>,
    /// The message's text, if it has any.
    pub text: Option<String>,
}

impl Expected {
    /// Reads assistant messages in OpenAI's form: `content` (text, or parts of it) and `tool_calls` with `arguments` as an
    /// object or as a JSON string. Several messages in a row count as one answer.
    ///
    /// Errors name the member that is missing or has the wrong type.
    pub fn from_messages(messages: &[Value]) -> Result<Self> {
        let mut expected = Self::default();
        for message in messages {
            match message["role"].as_str() {
                Some("assistant" | "model") => {}
                _ => bail!("the expected answer is not an assistant message but has role `{}`", message["role"]),
            }
            match &message["tool_calls"] {
                Value::Null => {}
                Value::Array(calls) => {
                    for call in calls {
                        expected.calls.push(read_call(call)?);
                    }
                }
                other => bail!("the expected answer's `tool_calls` is not a list: {other}"),
            }
            if let Some(text) = read_text(&message["content"]) {
                expected.text.get_or_insert_default().push_str(&text);
            }
        }
        Ok(expected)
    }
}

impl Serialize for Expected {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let calls: Vec<Value> = self.calls.iter().map(|c| json!({"name": c.name, "arguments": c.arguments})).collect();
        json!({"calls": calls, "text": self.text}).serialize(serializer)
    }
}

fn read_call(call: &Value) -> Result<Call> {
    let function = call.get("function").unwrap_or(call);
    let Some(name) = function["name"].as_str() else {
        bail!("an expected tool call has no `name`: {call}");
    };
    let arguments = match &function["arguments"] {
        Value::Null => Map::new(),
        Value::Object(arguments) => arguments.clone(),
        Value::String(text) => serde_json::from_str(text)
            .context(|| format!("the arguments of the expected call of `{name}` are not a JSON object"))?,
        other => bail!("the arguments of the expected call of `{name}` are not an object: {other}"),
    };
    Ok(Call { name: name.to_owned(), arguments })
}

/// `content` as a string, or as a list of `{"type": "text", "text": ..}`; `None` when there is no text in it.
fn read_text(content: &Value) -> Option<String> {
    let text = match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}

/// What is right and wrong about one output. The strict parts build on one another: arguments count only under the right
/// name, a name only in a valid format.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The tutorial's rule, on the bare text: every expected tool is named and no other one; where no call is due, no tool is
    /// named and no call begun.
    pub correct: bool,
    /// The text keeps to the grammar, and there is at least one call where one is due.
    pub format_valid: bool,
    /// Valid, and the calls name the expected functions, each as often as expected, in any order. No call where none is due.
    pub name_correct: bool,
    /// Names correct, and the calls equal the expected ones, arguments compared as JSON (1 equals 1.0), in any order.
    pub arguments_correct: bool,
    /// Arguments correct, and nothing but the answer due: no prose beside calls; where no call is due, prose of any wording.
    pub exact: bool,
    /// A call was begun where none was due.
    pub spurious_call: bool,
    /// No call was begun where one was due.
    pub missing_call: bool,
    /// All of it in a word or two, for the table.
    pub label: Label,
    /// Where the text breaks the grammar.
    pub faults: Vec<Fault>,
}

/// What an output did, in a word or two. It says what actually happened, also where the tutorial's rule is content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// Right by the tutorial's rule and strictly.
    Correct,
    /// A call was due and none was begun; prose that names the tool is still no call.
    NoCall,
    /// No call was due and one was begun.
    SpuriousCall,
    /// No call was due, none was begun, and still the answer names a tool.
    NamesTool,
    /// The expected tool is not named, or the call is of a tool that does not exist.
    WrongTool,
    /// The expected tool is named and so is another.
    BothTools,
    /// Calls that break the grammar.
    BadFormat,
    /// The right tools, but not each as often as expected.
    WrongCalls,
    /// The right calls with other arguments.
    WrongArguments,
    /// The right calls with prose beside them.
    ExtraText,
    /// No call was due and nothing was said.
    Empty,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Label::Correct => "correct",
            Label::NoCall => "no call",
            Label::SpuriousCall => "spurious call",
            Label::NamesTool => "names a tool",
            Label::WrongTool => "wrong tool",
            Label::BothTools => "both tools",
            Label::BadFormat => "bad format",
            Label::WrongCalls => "wrong calls",
            Label::WrongArguments => "wrong arguments",
            Label::ExtraText => "extra text",
            Label::Empty => "empty",
        })
    }
}

/// Judges `output` (decoded, control tokens kept) against `expected`; `tool_names` are the tools that the prompt declared.
pub fn judge(output: &str, expected: &Expected, tool_names: &[String]) -> Verdict {
    let parsed = parse_output(output);
    let mentions = Mentions::find(output, expected, tool_names);
    let call_due = !expected.calls.is_empty();
    let call_begun = output.contains(START_CALL);
    let correct = mentions.expected_all && !mentions.other && (call_due || !call_begun);

    let format_valid = parsed.faults.is_empty() && !(call_due && parsed.calls.is_empty());
    let name_correct = format_valid && same_calls(&parsed.calls, &expected.calls, |a, b| a.name == b.name);
    let arguments_correct = name_correct && same_calls(&parsed.calls, &expected.calls, call_equal);
    let exact = arguments_correct && parsed.prose.is_empty() == call_due;
    let mut verdict = Verdict {
        correct,
        format_valid,
        name_correct,
        arguments_correct,
        exact,
        spurious_call: call_begun && !call_due,
        missing_call: call_due && !call_begun,
        label: Label::Correct,
        faults: Vec::new(),
    };
    verdict.label = label(&verdict, &mentions, &parsed, expected);
    verdict.faults = parsed.faults;
    verdict
}

/// What went wrong first, in the order in which a reader would notice.
fn label(verdict: &Verdict, mentions: &Mentions, parsed: &ParsedOutput, expected: &Expected) -> Label {
    let calls_unexpected_tool = || parsed.calls.iter().any(|c| expected.calls.iter().all(|e| e.name != c.name));
    if verdict.missing_call {
        Label::NoCall
    } else if verdict.spurious_call {
        Label::SpuriousCall
    } else if mentions.other {
        match (expected.calls.is_empty(), mentions.expected_any) {
            (true, _) => Label::NamesTool,
            (false, true) => Label::BothTools,
            (false, false) => Label::WrongTool,
        }
    } else if !parsed.faults.is_empty() {
        Label::BadFormat
    } else if calls_unexpected_tool() {
        Label::WrongTool
    } else if !verdict.name_correct {
        Label::WrongCalls
    } else if !verdict.arguments_correct {
        Label::WrongArguments
    } else if verdict.exact {
        Label::Correct
    } else if expected.calls.is_empty() {
        Label::Empty
    } else {
        Label::ExtraText
    }
}

/// Which tools the bare text names.
struct Mentions {
    expected_all: bool,
    expected_any: bool,
    other: bool,
}

impl Mentions {
    fn find(output: &str, expected: &Expected, tool_names: &[String]) -> Self {
        let due: Vec<&str> = expected.calls.iter().map(|call| call.name.as_str()).collect();
        let others = tool_names.iter().map(String::as_str).filter(|name| !due.contains(name));
        let all: Vec<&str> = due.iter().copied().chain(others.clone()).collect();
        let named = |name: &str| is_named(output, name, &all);
        Self {
            expected_all: due.iter().all(|name| named(name)),
            expected_any: due.iter().any(|name| named(name)),
            other: others.clone().any(named),
        }
    }
}

/// Whether `name` occurs in `output` other than as a part of a longer name of `names`: `search` is not named by `search_web`
/// where both are tools. Where no name is part of another, this is the tutorial's plain `name in output`.
fn is_named(output: &str, name: &str, names: &[&str]) -> bool {
    let within_longer = |at: usize| {
        names.iter().filter(|longer| longer.len() > name.len()).any(|longer| {
            longer.match_indices(name).any(|(offset, _)| {
                at.checked_sub(offset)
                    .and_then(|start| output.get(start..))
                    .is_some_and(|text| text.starts_with(longer))
            })
        })
    };
    !name.is_empty() && output.match_indices(name).any(|(at, _)| !within_longer(at))
}

/// Whether the two lists hold the same calls, in any order, by the equivalence `equal`.
fn same_calls(calls: &[Call], expected: &[Call], equal: impl Fn(&Call, &Call) -> bool) -> bool {
    let mut left: Vec<&Call> = expected.iter().collect();
    calls.len() == expected.len()
        && calls.iter().all(|call| match left.iter().position(|other| equal(call, other)) {
            Some(at) => {
                left.swap_remove(at);
                true
            }
            None => false,
        })
}

fn call_equal(a: &Call, b: &Call) -> bool {
    a.name == b.name && object_equal(&a.arguments, &b.arguments)
}

fn object_equal(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| json_equal(value, other)))
}

/// JSON equality: the order of an object's members does not matter, and numbers are compared by value, so that 1 equals 1.0.
pub fn json_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => number_equal(a, b),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| json_equal(a, b)),
        (Value::Object(a), Value::Object(b)) => object_equal(a, b),
        _ => a == b,
    }
}

fn number_equal(a: &Number, b: &Number) -> bool {
    // Two integers are compared as integers: as floats, neighbours above 2^53 would be equal.
    let both_integers = !a.is_f64() && !b.is_f64();
    if both_integers { a == b } else { a.as_f64() == b.as_f64() }
}
