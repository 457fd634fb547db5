//! The config file of `engine train`, which `engine check` reads too: a table, in TOML or YAML, whose keys are flags, put before the flags of the command line.
//!
//! Later flags win, so the command line wins over the file, and there is nothing to declare twice. A flag of the file that cannot be
//! given together with one of the command line is left out. A path in it is relative to the folder of the file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Arg, Command, CommandFactory, Id};
use serde_json::{Map, Value};

use super::args::Cli;
use super::{sft_config, spelling};
use crate::err;
use crate::error::{Context, Error, Result};

/// Keys whose values are paths.
const PATHS: [&str; 5] = ["tools", "output_dir", "fallback_dir", "chat_template_path", "adapter"];
/// Keys whose values may be paths: they are where there is something of that name beside the file.
const PATHS_OR_NAMES: [&str; 6] =
    ["model", "model_name_or_path", "dataset", "dataset_name", "eval_dataset", "resume_from_checkpoint"];

/// The arguments with the config file's put in, if they are a `train` or `check` command with `--config FILE`. A check takes those
/// that it has too.
pub fn expand(arguments: Vec<OsString>) -> Result<Vec<OsString>> {
    let Some(name) = arguments.get(1).and_then(|name| name.to_str()).filter(|name| ["train", "check"].contains(name))
    else {
        return Ok(arguments);
    };
    let Some(path) = config_path(&arguments) else { return Ok(arguments) };
    let mut from_file = read(&path)?;
    let cli = Cli::command();
    let command = cli.find_subcommand(name).ok_or_else(|| err!("internal: no `{name}` command"))?;
    let (start, typed) = arguments.split_at(2);
    let beaten = beaten(command, typed);
    let stays = |flag: &str| argument(command, flag).is_some_and(|argument| !beaten.contains(&argument.get_id()));
    from_file.retain(|argument| argument.to_str().and_then(flag_of).is_none_or(stays));
    Ok([start, &from_file, typed].concat())
}

/// The flags that cannot be given together with one of those `typed`. Without a rank there is no LoRA: its other settings go with it.
fn beaten<'a>(command: &'a Command, typed: &[OsString]) -> Vec<&'a Id> {
    let typed: Vec<&Arg> = (0..typed.len()).filter_map(|i| argument(command, turned_on(&typed[i..])?)).collect();
    let refuses = |a: &Arg, b: &Arg| command.get_arg_conflicts_with(a).iter().any(|other| other.get_id() == b.get_id());
    let is_beaten = |other: &&Arg| typed.iter().any(|flag| refuses(flag, other) || refuses(other, flag));
    let beaten: Vec<&Arg> = command.get_arguments().filter(is_beaten).collect();
    let rank = beaten.iter().find(|argument| argument.get_id() == "lora_r");
    let goes_with = |other: &&Arg| rank.is_some_and(|rank| other.get_help_heading() == rank.get_help_heading());
    beaten.iter().copied().chain(command.get_arguments().filter(goes_with)).map(Arg::get_id).collect()
}

/// The flag that these arguments begin with, unless it is turned off.
fn turned_on(arguments: &[OsString]) -> Option<&str> {
    const OFF: [&str; 6] = ["false", "no", "off", "f", "n", "0"];
    let text = arguments.first()?.to_str()?;
    let value = text.split_once('=').map(|(_, value)| value);
    let value = value.or_else(|| arguments.get(1)?.to_str()).unwrap_or_default();
    flag_of(text).filter(|_| !OFF.contains(&value.to_lowercase().as_str()))
}

fn argument<'a>(command: &'a Command, flag: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|argument| spelling::is_named(argument, flag))
}

/// The `flag` of `--flag=value`.
fn flag_of(argument: &str) -> Option<&str> {
    argument.strip_prefix("--")?.split('=').next()
}

/// The last `--config FILE` or `--config=FILE`.
fn config_path(arguments: &[OsString]) -> Option<PathBuf> {
    let next = |i: usize| arguments.get(i + 1).map(PathBuf::from);
    arguments.iter().enumerate().rev().find_map(|(i, argument)| match argument.to_str()? {
        "--config" => next(i),
        text => text.strip_prefix("--config=").map(PathBuf::from),
    })
}

fn read(path: &Path) -> Result<Vec<OsString>> {
    let text = std::fs::read_to_string(path).context(|| format!("cannot read the config file `{}`", path.display()))?;
    arguments(&text, path)
}

/// The flags that the `text` of the config file `path` stands for: YAML if its name ends so, else TOML.
///
/// # Errors
/// Usage errors: it is neither, has a key that is no flag, or a value that no flag can take.
pub fn arguments(text: &str, path: &Path) -> Result<Vec<OsString>> {
    let shown = path.display();
    let command = Cli::command();
    let train = command.find_subcommand("train").ok_or_else(|| err!("internal: no `train` command"))?;
    let known = |flag: &str| argument(train, flag).is_some() && flag != "config";
    let mut arguments = Vec::new();
    for (key, value) in &table(text, path)? {
        let flag = key.replace('_', "-");
        if !known(&flag) || key.contains('-') {
            let error = Error::usage(format!("`{shown}`: unknown key `{key}`"));
            return Err(error.hint(sft_config::advice(&flag).unwrap_or_else(|| {
                "keys are the flags of `engine train --help` with underscores, e.g. `learning_rate`".to_owned()
            })));
        }
        let value = scalar(key, value).ok_or_else(|| {
            Error::usage(format!("`{shown}`: the value of `{key}` is not a string, number, boolean or list of these"))
        })?;
        arguments.push(format!("--{flag}={}", placed(key, value, path)).into());
    }
    Ok(arguments)
}

/// The keys of the file that have a value.
fn table(text: &str, path: &Path) -> Result<Map<String, Value>> {
    let shown = path.display();
    let is_yaml = path.extension().is_some_and(|end| end == "yaml" || end == "yml");
    let (kind, parsed) = if is_yaml {
        let parsed = serde_saphyr::from_str::<Option<Map<String, Value>>>(text).map_err(|e| e.to_string());
        let kept = |mut table: Map<String, Value>| {
            table.retain(|_, value| !value.is_null());
            table
        };
        ("a table in YAML", parsed.map(|table| table.map(kept).unwrap_or_default()))
    } else {
        ("TOML", toml::from_str(text).map_err(|e| e.to_string()))
    };
    parsed.map_err(|e| Error::usage(format!("the config file `{shown}` is not {kind}: {}", e.trim_end())))
}

fn scalar(key: &str, value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        Value::Array(items) => Some(items.iter().map(|item| scalar(key, item)).collect::<Option<Vec<_>>>()?.join(",")),
        Value::Object(_) if key == "lr_scheduler_kwargs" => Some(value.to_string()),
        Value::Object(_) | Value::Null => None,
    }
}

/// `value` with the folder of the config file before it, where it is a path.
fn placed(key: &str, value: String, file: &Path) -> String {
    let Some(folder) = file.parent().and_then(Path::to_str).filter(|folder| !folder.is_empty()) else { return value };
    let join = |name: &str| Path::new(folder).join(name);
    let joined = |name: &str| join(name).to_str().map_or_else(|| name.to_owned(), str::to_owned);
    if PATHS.contains(&key) {
        return joined(&value);
    }
    if !PATHS_OR_NAMES.contains(&key) {
        return value;
    }
    // `rows:test` is the part `test` of `rows`.
    let is_there = |name: &str| {
        join(name).exists() || name.rsplit_once(':').is_some_and(|(name, _)| !name.is_empty() && join(name).exists())
    };
    let is_path = |name: &str| name.starts_with('.') || name.contains(['*', '?']) || is_there(name);
    let placed = value.split(',').map(str::trim);
    let placed = placed.map(|name| if is_path(name) { joined(name) } else { name.to_owned() });
    placed.collect::<Vec<_>>().join(",")
}
