//! Jinja2 as transformers sets it up, with limits: a template is a file from a stranger.
//!
//! minijinja counts what its instructions, filters and strings cost (fuel); what is added here counts too. What is no
//! matter of counting is bounded otherwise: the depth of values, the stack (rendering has a thread of its own) and time.

use std::cell::RefCell;
use std::io::Write;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value as Jinja};
use serde_json::Value;

use super::{jinja, python};
use crate::bail;
use crate::error::{Context, Result};
use crate::foreign::caught;

/// Values may nest this deep. JSON, of which the data are made, ends at 128.
const MAX_DEPTH: usize = 200;
/// Spaces for a level of `tojson`.
const MAX_INDENT: usize = 64;
/// Digits of a width or precision in a string that is formatted.
const MAX_WIDTH_DIGITS: usize = 4;
/// What compiling and rendering recurse on.
const STACK_BYTES: usize = 64 << 20;
/// A conversation of a megabyte takes a fraction of a second.
const MAX_TIME: Duration = Duration::from_secs(60);

type Rendered<T> = std::result::Result<T, Error>;

/// What a worker is given to do.
type Job = Box<dyn FnOnce() + Send>;

thread_local! {
    /// The worker of this thread. It ends when this does.
    static WORKER: RefCell<Option<Sender<Job>>> = const { RefCell::new(None) };
}

/// What `job` gives, on a thread with a deep stack that works for this one. A job that takes more than a minute is left
/// alone, one that panics is an error.
///
/// # Errors
/// Of these two kinds, and no memory for the thread.
pub fn isolated<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let worker = match WORKER.take() {
        Some(worker) => worker,
        None => start_worker()?,
    };
    let (sender, receiver) = channel();
    let job = move || caught(|| "the chat template makes its interpreter panic".into(), job);
    // A worker that has ended drops the job, and with it the sender.
    let _ = worker.send(Box::new(move || drop(sender.send(job()))));
    match receiver.recv_timeout(MAX_TIME) {
        Ok(value) => {
            WORKER.set(Some(worker));
            value
        }
        Err(RecvTimeoutError::Timeout) => bail!("the chat template takes more than {} s", MAX_TIME.as_secs()),
        Err(RecvTimeoutError::Disconnected) => bail!("the worker of the chat template has ended"),
    }
}

fn start_worker() -> Result<Sender<Job>> {
    let (sender, jobs) = channel::<Job>();
    let thread = std::thread::Builder::new().name("chat template".into()).stack_size(STACK_BYTES);
    let started = thread.spawn(move || jobs.iter().for_each(|job| job()));
    let failed = started.context(|| "cannot start a thread for the chat template").map(drop);
    failed.map_err(|error| error.hint("memory or threads may be limited: see `ulimit -v` and `ulimit -u`"))?;
    Ok(sender)
}

/// A writer that refuses to hold more than a limit.
pub struct Limited {
    pub bytes: Vec<u8>,
    limit: usize,
}

impl Limited {
    pub fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit }
    }
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if bytes.len() > self.limit - self.bytes.len() {
            return Err(std::io::Error::other(format!("more than {} bytes of text", self.limit)));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Jinja2 as transformers sets it up: its whitespace rules, its filters where minijinja's differ, Python's text forms.
pub fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = environment.syntax().to_builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are valid"));
    environment.set_unknown_method_callback(method);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(|out, state, value| Ok(out.write_str(&text(state, value)?)?));
    environment.add_filter("string", text);
    environment.add_filter("upper", |state: &State, value: &Jinja| Ok::<_, Error>(text(state, value)?.to_uppercase()));
    environment.add_filter("lower", |state: &State, value: &Jinja| Ok::<_, Error>(text(state, value)?.to_lowercase()));
    environment.add_filter("trim", trim);
    environment.add_filter("tojson", tojson);
    environment
        .add_filter("pprint", |state: &State, value: &Jinja| Ok::<_, Error>(python::repr(&to_json(state, value)?)));
    environment.add_filter("dictsort", dictsort);
    environment.add_filter(jinja::KEEP, |state: &State, value: &Jinja| keep(state, value, 0));
    environment.remove_global("debug");
    let sized = |kind| matches!(kind, ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Undefined);
    environment.add_test("sequence", move |value: &Jinja| sized(value.kind()));
    environment.add_function("raise_exception", |message: String| -> Rendered<Jinja> { Err(refusal(message)) });
    environment.add_function("strftime_now", |format: &str| python::strftime(&jiff::ZonedDateTime::now(), format));
    environment
}

fn refusal(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

fn trim(state: &State, value: &Jinja, chars: Option<&str>) -> Rendered<String> {
    let text = text(state, value)?;
    Ok(match chars {
        Some(chars) => text.trim_matches(|c| chars.contains(c)).to_string(),
        None => python::strip(&text).to_string(),
    })
}

/// Python's methods, where their results cannot be large without being paid for.
fn method(state: &mut State, value: &Jinja, name: &str, args: &[Jinja]) -> Rendered<Jinja> {
    if let Some(text) = value.as_str() {
        let argument = |i: usize| args.get(i).and_then(Jinja::as_str).unwrap_or_default();
        match (name, args.len()) {
            ("strip", 0) => return Ok(python::strip(text).into()),
            ("lstrip", 0) => return Ok(text.trim_start_matches(python::is_space).into()),
            ("rstrip", 0) => return Ok(text.trim_end_matches(python::is_space).into()),
            ("replace", _) => pay(state, text.matches(argument(0)).count().saturating_mul(argument(1).len()))?,
            ("join", 1) => {
                let texts = args[0].try_iter()?.map(|item| self::text(state, &item)).collect::<Rendered<Vec<_>>>()?;
                pay(state, texts.len().saturating_mul(text.len()))?;
                return Ok(texts.join(text).into());
            }
            ("format", _) => check_widths(text)?,
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

/// Takes the fuel of `bytes` of text.
fn pay(state: &State, bytes: usize) -> Rendered<()> {
    state.consume_fuel(bytes as u64 / 64)
}

/// Refuses a format that asks for a width or precision of absurd size.
fn check_widths(format: &str) -> Rendered<()> {
    let longest = format.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0);
    if longest > MAX_WIDTH_DIGITS && format.contains('{') {
        return Err(refusal(format!("a format with a number of {longest} digits")));
    }
    Ok(())
}

fn tojson(state: &State, value: &Jinja, _positional: Rest<Jinja>, options: Kwargs) -> Rendered<String> {
    let indent = options.get::<Option<u64>>("indent")?;
    let indent = indent.map(|indent| usize::try_from(indent).unwrap_or(usize::MAX));
    if indent.is_some_and(|indent| indent > MAX_INDENT) {
        return Err(refusal(format!("tojson indents by at most {MAX_INDENT}")));
    }
    Ok(python::json_dumps(&Reader { state, indent: indent.unwrap_or(0) }.json(value, 0)?, indent))
}

/// Pairs by lower-cased key, as jinja2 compares them (minijinja folds ASCII only).
fn dictsort(state: &State, value: &Jinja, options: Kwargs) -> Rendered<Vec<Jinja>> {
    if value.kind() != ValueKind::Map {
        return Err(refusal(format!("dictsort needs a mapping, not {}", value.kind())));
    }
    let by_value = options.get::<Option<&str>>("by")? == Some("value");
    let case_sensitive = options.get::<Option<bool>>("case_sensitive")?.unwrap_or(false);
    let folded = |item: &Jinja| match item.as_str() {
        Some(text) if !case_sensitive => Jinja::from(text.to_lowercase()),
        _ => item.clone(),
    };
    let mut pairs = Vec::new();
    for key in value.try_iter()? {
        let item = value.get_item(&key)?;
        pairs.push((folded(if by_value { &item } else { &key }), [key, item]));
    }
    state.consume_fuel(pairs.len() as u64 * 20)?;
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    if options.get::<Option<bool>>("reverse")? == Some(true) {
        pairs.reverse();
    }
    Ok(pairs.into_iter().map(|(_, pair)| pair.into_iter().collect()).collect())
}

/// What `{{ value }}` prints: Python's `str`, nothing for undefined.
fn text(state: &State, value: &Jinja) -> Rendered<String> {
    match value.as_str() {
        Some(text) => Ok(text.to_string()),
        None if value.is_undefined() => Ok(String::new()),
        None => Ok(python::text(&to_json(state, value)?)),
    }
}

/// A value that a namespace may hold: a copy that shares nothing with a namespace, so that none comes to hold itself.
fn keep(state: &State, value: &Jinja, depth: usize) -> Rendered<Jinja> {
    state.consume_fuel(1)?;
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.map(|item| keep(state, &item, depth + 1)).collect(),
        ValueKind::Map => {
            let pair = |key: Jinja| Ok((key.clone(), keep(state, &value.get_item(&key)?, depth + 1)?));
            Ok(Jinja::from_pairs(value.try_iter()?.map(pair).collect::<Rendered<Vec<_>>>()?))
        }
        _ => Ok(value.clone()),
    }
}

fn too_deep() -> Error {
    refusal(format!("a value is nested deeper than {MAX_DEPTH}"))
}

pub fn to_jinja(value: &Value) -> Jinja {
    match value {
        Value::Null => Jinja::from(()),
        Value::Bool(flag) => Jinja::from(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Jinja::from(value),
            (_, Some(value)) => Jinja::from(value),
            _ => Jinja::from(number.as_f64()),
        },
        Value::String(text) => Jinja::from(text.as_str()),
        Value::Array(items) => items.iter().map(to_jinja).collect(),
        Value::Object(map) => Jinja::from_pairs(map.iter().map(|(key, item)| (key.as_str(), to_jinja(item)))),
    }
}

fn to_json(state: &State, value: &Jinja) -> Rendered<Value> {
    Reader { state, indent: 0 }.json(value, 0)
}

/// Reads values back from the template; pays for what writing them will take.
struct Reader<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    /// Spaces before each item, for each level.
    indent: usize,
}

impl Reader<'_, '_, '_> {
    fn json(&self, value: &Jinja, depth: usize) -> Rendered<Value> {
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        self.state.consume_fuel(1 + (self.indent * depth) as u64 / 64)?;
        Ok(match value.kind() {
            ValueKind::Undefined | ValueKind::None => Value::Null,
            ValueKind::Bool => Value::Bool(value.is_true()),
            ValueKind::Number => match (value.is_integer(), i64::try_from(value.clone()), u64::try_from(value.clone()))
            {
                (true, Ok(number), _) => Value::from(number),
                (true, _, Ok(number)) => Value::from(number),
                _ => f64::try_from(value.clone()).map_or(Value::Null, Value::from),
            },
            ValueKind::Seq | ValueKind::Iterable => {
                value.try_iter()?.map(|item| self.json(&item, depth + 1)).collect::<Rendered<_>>()?
            }
            ValueKind::Map => {
                let pair = |key: Jinja| {
                    let item = value.get_item(&key).map_or(Ok(Value::Null), |item| self.json(&item, depth + 1))?;
                    Ok((self.key(&key, depth)?, item))
                };
                Value::Object(value.try_iter()?.map(pair).collect::<Rendered<_>>()?)
            }
            _ => {
                let text = value.to_string();
                pay(self.state, text.len())?;
                Value::String(text)
            }
        })
    }

    fn key(&self, key: &Jinja, depth: usize) -> Rendered<String> {
        match key.as_str() {
            Some(text) => Ok(text.to_string()),
            None => Ok(python::text(&self.json(key, depth + 1)?)),
        }
    }
}
