//! The config file of `engine train`: a TOML table whose keys are flags, put before the flags of the command line.
//!
//! Later flags win, so the command line wins over the file, and there is nothing to declare twice.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use toml::Value;

use super::args::Cli;
use crate::err;
use crate::error::{Context, Error, Result};

/// The arguments with the config file's put in, if they are a `train` command with `--config FILE`.
pub fn expand(arguments: Vec<OsString>) -> Result<Vec<OsString>> {
    if arguments.get(1).is_none_or(|command| command != "train") {
        return Ok(arguments);
    }
    let Some(path) = config_path(&arguments) else { return Ok(arguments) };
    let from_file = read(&path)?;
    let (command, rest) = arguments.split_at(2);
    Ok([command, &from_file, rest].concat())
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

/// The flags that the `text` of the config file `path` stands for.
///
/// # Errors
/// Usage errors: it is not TOML, has a key that is no flag, or a value that no flag can take.
pub fn arguments(text: &str, path: &Path) -> Result<Vec<OsString>> {
    let shown = path.display();
    let table: toml::Table = toml::from_str(text)
        .map_err(|e| Error::usage(format!("the config file `{shown}` is not TOML: {}", e.to_string().trim_end())))?;
    let command = Cli::command();
    let train = command.find_subcommand("train").ok_or_else(|| err!("internal: no `train` command"))?;
    let known = |flag: &str| train.get_arguments().any(|a| a.get_long() == Some(flag)) && flag != "config";
    let mut arguments = Vec::new();
    for (key, value) in &table {
        let flag = key.replace('_', "-");
        if !known(&flag) || key.contains('-') {
            return Err(Error::usage(format!("`{shown}`: unknown key `{key}`"))
                .hint("keys are the flags of `engine train --help` with underscores, e.g. `learning_rate`"));
        }
        let value = scalar(value).ok_or_else(|| {
            Error::usage(format!("`{shown}`: the value of `{key}` is not a string, number, boolean or list of these"))
        })?;
        arguments.push(format!("--{flag}={value}").into());
    }
    Ok(arguments)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(n) => Some(n.to_string()),
        Value::Float(x) => Some(x.to_string()),
        Value::Boolean(b) => Some(b.to_string()),
        Value::Array(items) => Some(items.iter().map(scalar).collect::<Option<Vec<_>>>()?.join(",")),
        Value::Datetime(_) | Value::Table(_) => None,
    }
}
