//! Models of the hub: which files of a repository make one.

use std::path::{Path, PathBuf};

use crate::err;
use crate::error::Result;
use crate::hub::{Hub, Listing, Repo, RepoKind};

/// Files fetched when the model has them, in this order; the weights come last, so that a cached model with weights is
/// one that was fetched whole.
const SMALL_FILES: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "chat_template.jinja",
];
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The folder of the cache that holds the model `id` (`owner/name`), downloaded where it is not there yet.
///
/// # Errors
/// The hub cannot be reached, does not know the model, or refuses it: the error then says where to accept its
/// licence.
pub fn download_model(hub: &Hub, id: &str) -> Result<PathBuf> {
    let repo = hub.repo(RepoKind::Model, id);
    if let Some(folder) = cached_model(&repo, hub.offline) {
        return Ok(folder);
    }
    let snapshot = match repo.files()? {
        Listing::Files(snapshot) => snapshot,
        // What is cached will do, even without a template.
        Listing::Unreachable(error) => return cached_model(&repo, true).ok_or(error),
    };
    let has = |name: &str| snapshot.names.iter().any(|other| other == name);
    for name in SMALL_FILES.iter().filter(|name| has(name)) {
        snapshot.get(name)?;
    }
    let weights = if has(WEIGHTS) {
        snapshot.get(WEIGHTS)?
    } else if has(INDEX) {
        for name in snapshot.names.iter().filter(|name| name.starts_with("model-") && name.ends_with(".safetensors")) {
            snapshot.get(name)?;
        }
        snapshot.get(INDEX)?
    } else {
        return Err(err!("`{id}` has no `{WEIGHTS}`").hint("only models with safetensors weights can be used"));
    };
    snapshot.make_current()?;
    weights.parent().map(Path::to_path_buf).ok_or_else(|| err!("`{id}` was downloaded to no folder"))
}

/// The snapshot in the cache, if it is whole and every file of it intact. Programs that cache the weights without the
/// tokenizer are common, so a snapshot without a chat template is only taken when it cannot be completed (`any_template`).
fn cached_model(repo: &Repo, any_template: bool) -> Option<PathBuf> {
    let has = |name: &str| repo.cached(name).is_some();
    let weights = match repo.cached(WEIGHTS) {
        Some(_) => repo.intact(WEIGHTS)?,
        None => repo.intact(INDEX).filter(|index| shards_present(repo, index))?,
    };
    let needed = ["config.json", "tokenizer.json"].iter().all(|name| has(name));
    let intact = SMALL_FILES.iter().all(|name| !has(name) || repo.intact(name).is_some());
    let template = has("chat_template.jinja")
        || repo
            .cached("tokenizer_config.json")
            .is_some_and(|path| std::fs::read_to_string(path).is_ok_and(|text| text.contains("\"chat_template\"")));
    if needed && intact && (any_template || template) { weights.parent().map(Path::to_path_buf) } else { None }
}

fn shards_present(repo: &Repo, index: &Path) -> bool {
    let text = std::fs::read_to_string(index).unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let files = value["weight_map"].as_object();
    let shards: Option<std::collections::BTreeSet<&str>> =
        files.and_then(|files| files.values().map(|file| file.as_str()).collect());
    shards.is_some_and(|shards| shards.iter().all(|name| repo.intact(name).is_some()))
}
