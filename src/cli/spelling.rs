//! What users of TRL's command line type: underscores for hyphens, and flags that are called otherwise here or are none.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::sft_config;
use crate::error::Error;

/// The arguments with hyphens for underscores in the names of flags.
pub fn hyphens(arguments: Vec<OsString>) -> Vec<OsString> {
    arguments.into_iter().map(hyphen).collect()
}

fn hyphen(argument: OsString) -> OsString {
    let Some(text) = argument.to_str().filter(|text| text.starts_with("--") && text.contains('_')) else {
        return argument;
    };
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    let name = name.replace('_', "-");
    value.map_or_else(|| name.clone(), |value| format!("{name}={value}")).into()
}

/// Whether `argument` is the flag `--name`, or is so called too.
pub fn is_named(argument: &clap::Arg, name: &str) -> bool {
    let aliases = argument.get_all_aliases().unwrap_or_default();
    argument.get_long() == Some(name) || aliases.contains(&name)
}

/// The same error in words that help, if it is about a flag that TRL has.
pub fn explained(error: &clap::Error) -> Option<Error> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
    let name = flag.split('=').next().unwrap_or(flag);
    Some(Error::usage(format!("`{name}` is no flag of this program")).hint(sft_config::advice(name)?))
}
