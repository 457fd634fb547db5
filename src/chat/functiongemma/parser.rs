//! Reads function calls back from generated text, by the grammar of FunctionGemma's own runtime.
//!
//! ```text
//! call   = "call" ":" ID [ object ]
//! object = "{" [ pair { "," pair } ] "}"         pair  = ID ":" value
//! array  = "[" [ value { "," value } ] "]"
//! value  = ESC any-text-without-ESC ESC | NUMBER | true | false | null | None | object | array
//! ID     = [a-zA-Z_][a-zA-Z0-9_.-]*              ESC   = "<escape>"
//! ```
//!
//! A call stands between `<start_function_call>` and `<end_function_call>`; several may follow one another. White space
//! between tokens is skipped. NUMBER is JSON's number and stays an integer or a float as it was written; an integer beyond
//! 64 bits becomes a float. Text in `<escape>`s is a string whatever it spells. One thing is stricter than the grammar: a
//! key given twice is a fault, because nothing says which of the two values counts.

use std::fmt;

use serde_json::{Map, Number, Value};

use super::tokens::{
    BOS, END_CALL, END_DECLARATION, END_RESPONSE, END_TURN, EOS, ESCAPE, PAD, START_CALL, START_DECLARATION,
    START_RESPONSE, START_TURN,
};

/// Objects and arrays may nest this deep (serde_json's own limit for the other side of the comparison).
const MAX_DEPTH: usize = 128;

/// Tokens that end a turn; a run of them at the end of the text says nothing.
const STOPS: [&str; 3] = [END_TURN, EOS, PAD];

/// The control tokens to look for outside calls: the first opens one, the others have no place there.
const CONTROL_TOKENS: [&str; 11] = [
    START_CALL,
    END_CALL,
    ESCAPE,
    START_RESPONSE,
    END_RESPONSE,
    START_DECLARATION,
    END_DECLARATION,
    START_TURN,
    END_TURN,
    BOS,
    EOS,
];

/// One function call.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The function's name.
    pub name: String,
    /// Its arguments, in the order in which they were written.
    pub arguments: Map<String, Value>,
}

/// What a generated text says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParsedOutput {
    /// The well-formed calls, in order.
    pub calls: Vec<Call>,
    /// The text outside calls, without the tokens that end the turn, trimmed.
    pub prose: String,
    /// Everything that breaks the grammar; empty when the format is valid.
    pub faults: Vec<Fault>,
}

/// A place where the text breaks the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub kind: FaultKind,
    /// Where: an offset in bytes from the start of the text.
    pub at: usize,
}

/// The ways in which a call can be malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The text ends inside a call.
    UnexpectedEnd,
    /// A string is opened and never closed.
    UnclosedString,
    /// No `call:` after `<start_function_call>`.
    ExpectedCall,
    /// No function name after `call:`.
    ExpectedName,
    /// Neither arguments nor `<end_function_call>` after the name, or more text after the arguments.
    ExpectedEndOfCall,
    /// An object's member does not begin with a key.
    ExpectedKey,
    /// No `:` after a key.
    ExpectedColon,
    /// Nothing that begins a value: not a string in `<escape>`s, number, `true`, `false`, `null`, `None`, object or array.
    ExpectedValue,
    /// Neither `,` nor `}` after an object's member.
    ExpectedCommaOrBrace,
    /// Neither `,` nor `]` after an array's element.
    ExpectedCommaOrBracket,
    /// A number that JSON would refuse.
    BadNumber,
    /// The same key twice in one object.
    DuplicateKey,
    /// Objects or arrays nested too deep.
    TooDeep,
    /// A control token outside any call, where it means nothing.
    StrayToken,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FaultKind::UnexpectedEnd => "the text ends inside a call",
            FaultKind::UnclosedString => "a string is never closed",
            FaultKind::ExpectedCall => "expected `call:`",
            FaultKind::ExpectedName => "expected a function name",
            FaultKind::ExpectedEndOfCall => return write!(f, "expected `{{` or `{END_CALL}`"),
            FaultKind::ExpectedKey => "expected a key",
            FaultKind::ExpectedColon => "expected `:`",
            FaultKind::ExpectedValue => "expected a value",
            FaultKind::ExpectedCommaOrBrace => "expected `,` or `}`",
            FaultKind::ExpectedCommaOrBracket => "expected `,` or `]`",
            FaultKind::BadNumber => "bad number",
            FaultKind::DuplicateKey => "duplicate key",
            FaultKind::TooDeep => "nested too deep",
            FaultKind::StrayToken => "control token outside a call",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.kind, self.at)
    }
}

/// Reads `text`, decoded with its control tokens kept, e.g.
/// `<start_function_call>call:search{query:<escape>x<escape>}<end_function_call><start_function_response>`.
///
/// Never fails: what breaks the grammar is listed in [`ParsedOutput::faults`], and reading goes on behind it. Of a malformed
/// call nothing is kept.
pub fn parse_output(text: &str) -> ParsedOutput {
    let mut output = ParsedOutput::default();
    let mut prose = String::new();
    let mut reader = Reader { text, at: 0 };
    let end = end_of_turn(text);
    while let Some((at, token)) = first_token(&text[..end], reader.at) {
        prose.push_str(&text[reader.at..at]);
        reader.at = at + token.len();
        if token != START_CALL {
            output.faults.push(Fault { kind: FaultKind::StrayToken, at });
            continue;
        }
        match reader.call() {
            Ok(call) => output.calls.push(call),
            Err(fault) => {
                output.faults.push(fault);
                reader.at = fault.at;
                reader.skip_broken_call();
            }
        }
    }
    prose.push_str(text.get(reader.at..end).unwrap_or_default());
    output.prose = prose.trim().to_owned();
    output
}

/// Where the tokens that end the turn begin. `<start_function_response>` ends a turn only straight after a call.
fn end_of_turn(text: &str) -> usize {
    let mut rest = text.trim_end();
    while let Some(shorter) = STOPS.iter().find_map(|stop| rest.strip_suffix(stop)) {
        rest = shorter.trim_end();
    }
    let before = rest.strip_suffix(START_RESPONSE).map(str::trim_end);
    match before {
        Some(before) if before.ends_with(END_CALL) => before.len(),
        _ => rest.len(),
    }
}

/// The first control token of `text` at or after byte `from`, and where it is.
fn first_token(text: &str, from: usize) -> Option<(usize, &'static str)> {
    let tail = text.get(from..)?;
    tail.match_indices('<').find_map(|(at, _)| {
        let token = CONTROL_TOKENS.iter().find(|token| tail[at..].starts_with(**token))?;
        Some((from + at, *token))
    })
}

/// A cursor over the text; each method reads one rule of the grammar and leaves the cursor behind it.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// A fault of `kind` here, or `UnexpectedEnd` when there is no more text.
    fn fault(&self, kind: FaultKind) -> Fault {
        let kind = if self.rest().is_empty() { FaultKind::UnexpectedEnd } else { kind };
        Fault { kind, at: self.at }
    }

    fn skip_white_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
    }

    /// Steps over white space, then over `token` if it is next.
    fn eat(&mut self, token: &str) -> bool {
        self.skip_white_space();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &str, kind: FaultKind) -> Result<(), Fault> {
        if self.eat(token) { Ok(()) } else { Err(self.fault(kind)) }
    }

    fn identifier(&mut self, kind: FaultKind) -> Result<&'a str, Fault> {
        self.skip_white_space();
        let rest = self.rest();
        if !rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            return Err(self.fault(kind));
        }
        let is_tail = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let len = rest.find(|c| !is_tail(c)).unwrap_or(rest.len());
        self.at += len;
        Ok(&rest[..len])
    }

    /// From behind `<start_function_call>` to behind `<end_function_call>`.
    fn call(&mut self) -> Result<Call, Fault> {
        self.expect("call", FaultKind::ExpectedCall)?;
        self.expect(":", FaultKind::ExpectedCall)?;
        let name = self.identifier(FaultKind::ExpectedName)?.to_owned();
        let arguments = if self.eat("{") { self.object(1)? } else { Map::new() };
        self.expect(END_CALL, FaultKind::ExpectedEndOfCall)?;
        Ok(Call { name, arguments })
    }

    /// From behind `{` to behind `}`.
    fn object(&mut self, depth: usize) -> Result<Map<String, Value>, Fault> {
        let mut object = Map::new();
        if self.eat("}") {
            return Ok(object);
        }
        loop {
            let key = self.identifier(FaultKind::ExpectedKey)?;
            if object.contains_key(key) {
                return Err(Fault { kind: FaultKind::DuplicateKey, at: self.at - key.len() });
            }
            self.expect(":", FaultKind::ExpectedColon)?;
            object.insert(key.to_owned(), self.value(depth)?);
            if self.eat("}") {
                return Ok(object);
            }
            self.expect(",", FaultKind::ExpectedCommaOrBrace)?;
        }
    }

    /// From behind `[` to behind `]`.
    fn array(&mut self, depth: usize) -> Result<Vec<Value>, Fault> {
        let mut array = Vec::new();
        if self.eat("]") {
            return Ok(array);
        }
        loop {
            array.push(self.value(depth)?);
            if self.eat("]") {
                return Ok(array);
            }
            self.expect(",", FaultKind::ExpectedCommaOrBracket)?;
        }
    }

    /// `depth`: how many objects and arrays are open.
    fn value(&mut self, depth: usize) -> Result<Value, Fault> {
        self.skip_white_space();
        let rest = self.rest();
        match rest.chars().next() {
            Some('{' | '[') if depth >= MAX_DEPTH => Err(self.fault(FaultKind::TooDeep)),
            Some('{') => {
                self.at += 1;
                Ok(Value::Object(self.object(depth + 1)?))
            }
            Some('[') => {
                self.at += 1;
                Ok(Value::Array(self.array(depth + 1)?))
            }
            Some('-' | '+' | '.' | '0'..='9') => self.number(),
            _ if rest.starts_with(ESCAPE) => self.string(),
            _ => self.word(),
        }
    }

    fn string(&mut self) -> Result<Value, Fault> {
        let inside = &self.rest()[ESCAPE.len()..];
        let len = inside.find(ESCAPE).ok_or(Fault { kind: FaultKind::UnclosedString, at: self.at })?;
        self.at += len + 2 * ESCAPE.len();
        Ok(Value::String(inside[..len].to_owned()))
    }

    fn number(&mut self) -> Result<Value, Fault> {
        let rest = self.rest();
        let len = rest.find(|c| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')).unwrap_or(rest.len());
        let number: Number = rest[..len].parse().map_err(|_| self.fault(FaultKind::BadNumber))?;
        self.at += len;
        Ok(Value::Number(number))
    }

    fn word(&mut self) -> Result<Value, Fault> {
        let start = self.at;
        let value = match self.identifier(FaultKind::ExpectedValue)? {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "null" | "None" => Value::Null,
            _ => return Err(Fault { kind: FaultKind::ExpectedValue, at: start }),
        };
        Ok(value)
    }

    /// To behind the next `<end_function_call>`, or to the next `<start_function_call>` or the end, whichever is first.
    fn skip_broken_call(&mut self) {
        let rest = self.rest();
        let next = rest.match_indices('<').find_map(|(at, _)| {
            let token = [START_CALL, END_CALL].into_iter().find(|token| rest[at..].starts_with(token))?;
            Some(if token == END_CALL { at + token.len() } else { at })
        });
        self.at += next.unwrap_or(rest.len());
    }
}
