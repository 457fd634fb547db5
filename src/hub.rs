//! Models of the Hugging Face hub, downloaded into its usual cache.
//!
//! Honoured: `HF_TOKEN`, the token file of `hf auth login`, `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo};

use crate::err;
use crate::error::{Context, Error, Kind, Result};

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

/// Which hub, with which token, cached where.
#[derive(Clone, Debug)]
pub struct Hub {
    /// The address, without a final slash.
    pub endpoint: String,
    /// Sent as bearer token.
    pub token: Option<String>,
    /// The folder of `models--owner--name`.
    pub cache: PathBuf,
    /// Use what is cached and never the network.
    pub offline: bool,
}

impl Hub {
    /// The hub that the environment describes.
    pub fn from_env() -> Self {
        let set = |name: &str| std::env::var(name).ok().map(|v| v.trim().to_string()).filter(|v| !v.is_empty());
        let home = Cache::from_env();
        Self {
            endpoint: set("HF_ENDPOINT")
                .map_or("https://huggingface.co".into(), |url| url.trim_end_matches('/').into()),
            token: set("HF_TOKEN").or_else(|| home.token()),
            cache: set("HF_HUB_CACHE").map_or_else(|| home.path().clone(), PathBuf::from),
            offline: set("HF_HUB_OFFLINE").is_some_and(|value| value != "0"),
        }
    }

    /// The folder of the cache that holds the model `id` (`owner/name`), downloaded where it is not there yet.
    ///
    /// # Errors
    /// The hub cannot be reached, does not know the model, or refuses it: the error then says where to accept its
    /// licence.
    pub fn download_model(&self, id: &str) -> Result<PathBuf> {
        let cached = Cache::new(self.cache.clone()).repo(Repo::model(id.into()));
        if let Some(folder) = cached_model(&cached, self.offline) {
            return Ok(folder);
        }
        if self.offline {
            return Err(err!("`{id}` is not whole in the cache `{}`", self.cache.display())
                .hint("unset `HF_HUB_OFFLINE` to download it"));
        }
        let repo = self.api()?.repo(Repo::model(id.into()));
        let info = match repo.info() {
            // Not reachable: what is cached will do, even without a template.
            Err(error) if status(&error).is_none() => {
                return cached_model(&cached, true).ok_or_else(|| explain(id, error));
            }
            info => info.map_err(|error| explain(id, error))?,
        };
        let names: Vec<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
        for name in SMALL_FILES.iter().filter(|name| names.contains(name)) {
            fetch(id, &repo, name)?;
        }
        let weights = match names.contains(&WEIGHTS) {
            true => fetch(id, &repo, WEIGHTS)?,
            false if names.contains(&INDEX) => fetch_shards(id, &repo, &names)?,
            false => {
                return Err(err!("`{id}` has no `{WEIGHTS}`").hint("only models with safetensors weights can be used"));
            }
        };
        weights.parent().map(Path::to_path_buf).ok_or_else(|| err!("`{id}` was downloaded to no folder"))
    }

    fn api(&self) -> Result<Api> {
        ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_progress(std::io::stderr().is_terminal())
            .with_retries(2)
            .with_user_agent(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
            .build()
            .context(|| "cannot set up the download")
    }
}

/// The snapshot in the cache, if it is whole. Programs that cache the weights without the tokenizer are common, so a
/// snapshot without a chat template is only taken when it cannot be completed (`any_template`).
fn cached_model(cached: &CacheRepo, any_template: bool) -> Option<PathBuf> {
    let has = |name: &str| cached.get(name).is_some();
    let weights = cached.get(WEIGHTS).or_else(|| cached.get(INDEX).filter(|index| shards_present(cached, index)))?;
    let needed = ["config.json", "tokenizer.json"].iter().all(|name| has(name));
    let template = has("chat_template.jinja")
        || cached
            .get("tokenizer_config.json")
            .is_some_and(|path| std::fs::read_to_string(path).is_ok_and(|text| text.contains("\"chat_template\"")));
    if needed && (any_template || template) { weights.parent().map(Path::to_path_buf) } else { None }
}

fn shards_present(cached: &CacheRepo, index: &Path) -> bool {
    let text = std::fs::read_to_string(index).unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let files = value["weight_map"].as_object();
    files.is_some_and(|files| files.values().all(|file| file.as_str().is_some_and(|name| cached.get(name).is_some())))
}

fn fetch_shards(id: &str, repo: &ApiRepo, names: &[&str]) -> Result<PathBuf> {
    for name in names.iter().filter(|name| name.starts_with("model-") && name.ends_with(".safetensors")) {
        fetch(id, repo, name)?;
    }
    fetch(id, repo, INDEX)
}

fn fetch(id: &str, repo: &ApiRepo, name: &str) -> Result<PathBuf> {
    repo.get(name).map_err(|error| explain(id, error).context(format!("cannot download `{name}` of `{id}`")))
}

/// Says what an HTTP error of the hub means and what to do about it.
fn explain(id: &str, error: ApiError) -> Error {
    let token = "create a token at https://huggingface.co/settings/tokens and set `HF_TOKEN`, or run `hf auth login`";
    let kind = if matches!(status(&error), Some(401 | 403)) { Kind::Gated } else { Kind::Other };
    let (message, hint) = match status(&error) {
        Some(401) => (
            format!("the hub refuses `{id}` without a valid token: it is gated, private, or does not exist"),
            format!("accept its licence at https://huggingface.co/{id}, {token}"),
        ),
        Some(403) => (
            format!("the hub refuses `{id}`: its licence is not accepted, or the token may not read gated models"),
            format!("accept its licence at https://huggingface.co/{id} with the account of the token; {token}"),
        ),
        Some(404) => (
            format!("`{id}` is neither a folder here nor a model of the hub"),
            "check the spelling, or give the path of a folder".to_string(),
        ),
        _ => (
            format!("cannot get `{id}` from the hub"),
            "check the connection (`HF_ENDPOINT` names another hub), or download it elsewhere and give the folder"
                .into(),
        ),
    };
    let failed: Result<(), ApiError> = Err(error);
    failed.context(|| message).map_err(|error| error.hint(hint).of_kind(kind)).unwrap_err()
}

fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(code) => Some(code),
            _ => None,
        },
        ApiError::TooManyRetries(error) => status(error),
        _ => None,
    }
}
