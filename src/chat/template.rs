//! Chat templates: Jinja text, the checkpoint's own or the project's, run by minijinja as transformers runs it.

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::{Environment, ErrorKind, Value as Jinja};
use serde_json::Value;

use super::sandbox::to_jinja;
use super::tokenizer_file::read_text;
use super::{jinja, sandbox};
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
            return Self::read(&path, special_tokens);
        }
        let path = folder.join("tokenizer_config.json");
        if path.exists() {
            let text = read_text(&path)?;
            let config: Value = serde_json::from_str(&text).context(|| format!("`{}` is not JSON", path.display()))?;
            if let Some(source) = configured_template(&config["chat_template"]) {
                return Self::from_source(source, special_tokens).context(|| format!("in `{}`", path.display()));
            }
        }
        Self::from_source(FUNCTIONGEMMA_TEMPLATE, special_tokens)
    }

    /// The template that a file holds.
    ///
    /// # Errors
    /// It cannot be read, or does not compile; the file is named.
    pub fn read(path: &Path, special_tokens: SpecialTokens) -> Result<Self> {
        let source = read_text(path)?;
        Self::from_source(&source, special_tokens).context(|| format!("in `{}`", path.display()))
    }

    /// A template from its Jinja text.
    ///
    /// # Errors
    /// Jinja syntax errors, with the line, and a source of absurd size or depth.
    pub fn from_source(source: &str, special_tokens: SpecialTokens) -> Result<Self> {
        // As Jinja reads it: the ends of lines of Windows are not the template's text.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let prepared = jinja::prepare(&source)?;
        let compiled = sandbox::isolated(move || {
            let mut environment = sandbox::environment();
            environment.add_template_owned("chat_template", prepared).map(|()| environment)
        })?;
        let environment =
            compiled.map_err(|error| Error::new(format!("the chat template does not compile: {error}")))?;
        Ok(Self { source, environment, special_tokens })
    }

    /// The Jinja text to save beside a model that was trained with this template.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of `messages` (OpenAI form, call arguments as objects) with `tools` declared. With
    /// `add_generation_prompt` it ends where the model is to go on.
    ///
    /// # Errors
    /// What the template itself raises, messages without a field that it needs, and more work or text than they can mean.
    pub fn render(&self, messages: &[Value], tools: &[Value], add_generation_prompt: bool) -> Result<String> {
        let list = |items: &[Value]| items.iter().map(to_jinja).collect::<Jinja>();
        let mut variables: BTreeMap<String, Jinja> =
            self.special_tokens.iter().map(|(name, text)| (name.clone(), Jinja::from(text.as_str()))).collect();
        variables.insert("messages".into(), list(messages));
        variables.insert("tools".into(), if tools.is_empty() { Jinja::from(()) } else { list(tools) });
        variables.insert("documents".into(), Jinja::from(()));
        variables.insert("add_generation_prompt".into(), Jinja::from(add_generation_prompt));
        let size = messages.iter().chain(tools).map(Size::of).fold(Size::default(), Size::plus);
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(size.fuel()));
        sandbox::isolated(move || {
            let mut out = sandbox::Limited::new(size.output());
            let template = environment.get_template("chat_template").map_err(refused)?;
            template.render_captured_to(variables, &mut out).map_err(refused)?;
            String::from_utf8(out.bytes).context(|| "internal: the chat template wrote no UTF-8")
        })?
    }
}

/// How much a template is given to work on: what it may do is measured by that.
#[derive(Clone, Copy, Default)]
struct Size {
    /// Values, with all that they hold.
    values: u64,
    /// Of strings and keys.
    bytes: u64,
}

impl Size {
    fn of(value: &Value) -> Self {
        let this = |bytes: usize| Size { values: 1, bytes: bytes as u64 };
        match value {
            Value::String(text) => this(text.len()),
            Value::Array(items) => items.iter().map(Self::of).fold(this(0), Self::plus),
            Value::Object(map) => {
                map.iter().map(|(key, item)| Self::of(item).plus(this(key.len()))).fold(this(0), Self::plus)
            }
            _ => this(0),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self { values: self.values + other.values, bytes: self.bytes + other.bytes }
    }

    /// FunctionGemma's template takes 60 for a value and a fuel for 6 bytes, one that compares all messages with each other
    /// has enough for 1,000 of them.
    fn fuel(self) -> u64 {
        2_000_000 + 4000 * self.values + 4 * self.bytes
    }

    /// In bytes; indented JSON of small values is the largest that is meant.
    fn output(self) -> usize {
        usize::try_from((1 << 20) + 1024 * self.values + 16 * self.bytes).unwrap_or(usize::MAX)
    }
}

fn refused(error: minijinja::Error) -> Error {
    let line = error.line().map_or(String::new(), |line| format!(" (line {line})"));
    let detail = match error.kind() {
        ErrorKind::OutOfFuel => "it does far more work than they are worth".into(),
        ErrorKind::WriteFailure => "it writes far more text than they hold".into(),
        _ => error.detail().map_or_else(|| error.to_string(), str::to_string),
    };
    Error::new(format!("the chat template cannot render these messages: {detail}{line}"))
}

fn configured_template(value: &Value) -> Option<&str> {
    let named = |name: &str| value.as_array()?.iter().find(|entry| entry["name"] == name)?["template"].as_str();
    value.as_str().or_else(|| named("default"))
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
        let json = read_text(&path)?;
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
