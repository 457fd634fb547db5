//! Chat templates: Jinja text, the checkpoint's own or the project's, run by minijinja as transformers runs it.

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, ErrorKind, Value as Jinja};
use serde_json::Value;

use super::python;
use crate::bail;
use crate::error::{Context, Error, Result};

/// The project's own FunctionGemma template: for a checkpoint that brings none, and for the folder saved from it.
pub const FUNCTIONGEMMA_TEMPLATE: &str = include_str!("functiongemma/template.jinja");

/// `bos_token`, `eos_token`, .. to their texts: variables of every template.
pub type SpecialTokens = BTreeMap<String, String>;

/// Turns messages and tools into the text of a prompt.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    environment: Environment<'static>,
    special_tokens: SpecialTokens,
}

impl ChatTemplate {
    /// The template of a checkpoint folder: `chat_template.jinja`, else `chat_template` in `tokenizer_config.json`
    /// (of several, the one named `default`), else [`FUNCTIONGEMMA_TEMPLATE`].
    ///
    /// # Errors
    /// A file that cannot be read, is not JSON, or a template that does not compile; the file is named.
    pub fn load(folder: &Path, special_tokens: SpecialTokens) -> Result<Self> {
        let path = folder.join("chat_template.jinja");
        if path.exists() {
            let source = std::fs::read_to_string(&path).context(|| format!("cannot read `{}`", path.display()))?;
            return Self::from_source(&source, special_tokens).context(|| format!("in `{}`", path.display()));
        }
        let path = folder.join("tokenizer_config.json");
        if path.exists() {
            let text = std::fs::read_to_string(&path).context(|| format!("cannot read `{}`", path.display()))?;
            let config: Value = serde_json::from_str(&text).context(|| format!("`{}` is not JSON", path.display()))?;
            if let Some(source) = configured_template(&config["chat_template"]) {
                return Self::from_source(source, special_tokens).context(|| format!("in `{}`", path.display()));
            }
        }
        Self::from_source(FUNCTIONGEMMA_TEMPLATE, special_tokens)
    }

    /// A template from its Jinja text.
    ///
    /// # Errors
    /// Jinja syntax errors, with the line.
    pub fn from_source(source: &str, special_tokens: SpecialTokens) -> Result<Self> {
        let mut environment = environment();
        environment
            .add_template_owned("chat_template", without_generation_tags(source))
            .map_err(|error| Error::new(format!("the chat template does not compile: {error}")))?;
        Ok(Self { source: source.into(), environment, special_tokens })
    }

    /// The Jinja text to save beside a model that was trained with this template.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of `messages` (OpenAI form, call arguments as objects) with `tools` declared. With
    /// `add_generation_prompt` it ends where the model is to go on.
    ///
    /// # Errors
    /// What the template itself raises, and messages without a field that it needs.
    pub fn render(&self, messages: &[Value], tools: &[Value], add_generation_prompt: bool) -> Result<String> {
        let list = |items: &[Value]| items.iter().map(to_jinja).collect::<Jinja>();
        let mut variables: BTreeMap<&str, Jinja> =
            self.special_tokens.iter().map(|(name, text)| (name.as_str(), Jinja::from(text.as_str()))).collect();
        variables.insert("messages", list(messages));
        variables.insert("tools", if tools.is_empty() { Jinja::from(()) } else { list(tools) });
        variables.insert("documents", Jinja::from(()));
        variables.insert("add_generation_prompt", Jinja::from(add_generation_prompt));
        let template = self.environment.get_template("chat_template").map_err(refused)?;
        template.render(variables.into_iter().collect::<BTreeMap<_, _>>()).map_err(refused)
    }
}

fn refused(error: minijinja::Error) -> Error {
    let line = error.line().map_or(String::new(), |line| format!(" (line {line})"));
    let detail = error.detail().map_or_else(|| error.to_string(), str::to_string);
    Error::new(format!("the chat template cannot render these messages: {detail}{line}"))
}

fn configured_template(value: &Value) -> Option<&str> {
    let named = |name: &str| value.as_array()?.iter().find(|entry| entry["name"] == name)?["template"].as_str();
    value.as_str().or_else(|| named("default"))
}

/// transformers' own `{% generation %}` tags, replaced by blocks that change nothing.
fn without_generation_tags(source: &str) -> String {
    let mut parts = source.split("{%");
    let mut out = parts.next().unwrap_or("").to_string();
    for part in parts {
        let (tag, rest) = part.split_at(part.find("%}").unwrap_or(0));
        out += "{%";
        out += &match tag.trim_matches(['-', '+', ' ', '\n', '\t']) {
            "generation" => tag.replace("generation", "if true"),
            "endgeneration" => tag.replace("endgeneration", "endif"),
            _ => tag.to_string(),
        };
        out += rest;
    }
    out
}

/// Jinja2 as transformers sets it up: its whitespace rules, its filters where minijinja's differ, Python's text forms.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = environment.syntax().to_builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are valid"));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_formatter(|out, _, value| Ok(out.write_str(&text(value))?));
    environment.add_filter("string", text);
    environment.add_filter("upper", |value: &Jinja| text(value).to_uppercase());
    environment.add_filter("lower", |value: &Jinja| text(value).to_lowercase());
    environment.add_filter("trim", |value: &Jinja, chars: Option<&str>| match chars {
        Some(chars) => text(value).trim_matches(|c| chars.contains(c)).to_string(),
        None => python::strip(&text(value)).to_string(),
    });
    environment.add_filter("tojson", tojson);
    environment.add_filter("dictsort", dictsort);
    let sized = |kind| matches!(kind, ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Undefined);
    environment.add_test("sequence", move |value: &Jinja| sized(value.kind()));
    environment.add_function("raise_exception", |message: String| -> Result<Jinja, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: &str| python::strftime(&jiff::ZonedDateTime::now(), format));
    environment
}

fn tojson(value: &Jinja, _positional: Rest<Jinja>, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent = options.get::<Option<usize>>("indent")?;
    Ok(python::json_dumps(&to_json(value), indent))
}

/// Pairs by lower-cased key, as jinja2 compares them (minijinja folds ASCII only).
fn dictsort(value: &Jinja, options: Kwargs) -> Result<Vec<Jinja>, minijinja::Error> {
    if value.kind() != ValueKind::Map {
        let message = format!("dictsort needs a mapping, not {}", value.kind());
        return Err(minijinja::Error::new(ErrorKind::InvalidOperation, message));
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
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    if options.get::<Option<bool>>("reverse")? == Some(true) {
        pairs.reverse();
    }
    Ok(pairs.into_iter().map(|(_, pair)| pair.into_iter().collect()).collect())
}

/// What `{{ value }}` prints: Python's `str`, nothing for undefined.
fn text(value: &Jinja) -> String {
    match value.as_str() {
        Some(text) => text.to_string(),
        None if value.is_undefined() => String::new(),
        None => python::text(&to_json(value)),
    }
}

fn to_jinja(value: &Value) -> Jinja {
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

fn to_json(value: &Jinja) -> Value {
    let items = || value.try_iter().into_iter().flatten();
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => Value::Null,
        ValueKind::Bool => Value::Bool(value.is_true()),
        ValueKind::Number => match (value.is_integer(), i64::try_from(value.clone()), u64::try_from(value.clone())) {
            (true, Ok(number), _) => Value::from(number),
            (true, _, Ok(number)) => Value::from(number),
            _ => f64::try_from(value.clone()).map_or(Value::Null, Value::from),
        },
        ValueKind::Seq | ValueKind::Iterable => items().map(|item| to_json(&item)).collect(),
        ValueKind::Map => items()
            .map(|key| (text(&key), value.get_item(&key).map_or(Value::Null, |item| to_json(&item))))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        _ => Value::String(value.to_string()),
    }
}

/// Special tokens named in `tokenizer_config.json` and `special_tokens_map.json` of a checkpoint folder; both may be
/// missing. A token is a string or an object with `content`.
///
/// # Errors
/// A file that cannot be read or is not JSON.
pub fn load_special_tokens(folder: &Path) -> Result<SpecialTokens> {
    let mut tokens = SpecialTokens::new();
    for file in ["special_tokens_map.json", "tokenizer_config.json"] {
        let path = folder.join(file);
        if !path.exists() {
            continue;
        }
        let json = std::fs::read_to_string(&path).context(|| format!("cannot read `{}`", path.display()))?;
        let config: Value = serde_json::from_str(&json).context(|| format!("`{}` is not JSON", path.display()))?;
        let Value::Object(config) = config else { bail!("`{}` is not a JSON object", path.display()) };
        for (name, value) in config.iter().filter(|(name, _)| name.ends_with("_token")) {
            if let Some(text) = value.as_str().or_else(|| value["content"].as_str()) {
                tokens.insert(name.clone(), text.to_string());
            }
        }
    }
    Ok(tokens)
}
