//! The Hugging Face hub: one client for its models and its datasets.

#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod download;
#[cfg(feature = "hub")]
mod settings;
#[cfg(feature = "hub")]
mod shelf;
#[cfg(feature = "hub")]
mod transport;

#[cfg(feature = "hub")]
pub use client::{Listing, Repo, RepoKind, Snapshot};
#[cfg(feature = "hub")]
pub use settings::Hub;

/// What makes the progress of a download; set once, by whoever has a terminal.
#[cfg(feature = "hub")]
static BAR: std::sync::OnceLock<fn() -> Box<dyn hf_hub::api::Progress>> = std::sync::OnceLock::new();

/// From now on downloads show their progress by what `bar` makes. Nobody has said so: they are silent.
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
