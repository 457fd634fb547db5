//! The Hugging Face hub: one client for its models and its datasets, and for what is pushed there.

use crate::error::{Error, Result};

#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod download;
#[cfg(feature = "hub")]
mod lfs;
#[cfg(feature = "hub")]
mod local;
#[cfg(feature = "hub")]
mod send;
#[cfg(feature = "hub")]
mod settings;
#[cfg(feature = "hub")]
mod shelf;
#[cfg(feature = "hub")]
mod transport;
#[cfg(feature = "hub")]
mod upload;

#[cfg(feature = "hub")]
pub use client::{Listing, Repo, RepoKind, Snapshot};
#[cfg(feature = "hub")]
pub use local::LocalFile;
#[cfg(feature = "hub")]
pub use settings::Hub;
#[cfg(feature = "hub")]
pub use upload::{Push, Pushed};

/// What makes the progress of a download or an upload; set once, by whoever has a terminal.
#[cfg(feature = "hub")]
static BAR: std::sync::OnceLock<fn() -> Box<dyn hf_hub::api::Progress>> = std::sync::OnceLock::new();

/// From now on downloads and uploads show their progress by what `bar` makes. Nobody has said so: they are silent.
#[cfg(feature = "hub")]
pub fn show_downloads(bar: fn() -> Box<dyn hf_hub::api::Progress>) {
    let _ = BAR.set(bar);
}

/// `owner/name`, both of letters, digits, `.`, `_` and `-`, neither starting with a dot.
pub fn is_hub_id(text: &str) -> bool {
    let part = |part: &str| {
        let mut letters = part.chars();
        let rest = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        letters.next().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') && letters.all(rest)
    };
    text.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name))
}

/// Whether the hub takes `id` as the name of a new repository, by the rules of `huggingface_hub`.
///
/// # Errors
/// A usage error that says what is wrong with it.
pub fn check_new_id(id: &str) -> Result<()> {
    let ends = |c: char| matches!(c, '.' | '-');
    let wrong = if !is_hub_id(id) || id.split('/').any(|part| part.ends_with(ends)) {
        "it is `owner/name`, of letters, digits, `.`, `_` and `-`, no `.` or `-` first or last"
    } else if id.len() > LONGEST_ID {
        "it has more than 96 characters"
    } else if id.contains("--") || id.contains("..") {
        "it has `--` or `..` in it"
    } else if id.ends_with(".git") {
        "it ends in `.git`"
    } else {
        return Ok(());
    };
    Err(Error::usage(format!("`{}` is no name for a model of the hub: {wrong}", id.escape_debug()))
        .hint("give `--hub-model-id OWNER/NAME`, where OWNER is your account or an organization"))
}

/// Characters of an id that the hub takes at most.
const LONGEST_ID: usize = 96;
