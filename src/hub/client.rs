//! What a repository of the hub has, and its files, downloaded into the hub's usual cache.
//!
//! Honoured: `HF_TOKEN`, the token file of `hf auth login`, `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`.

use std::io::IsTerminal;
use std::path::PathBuf;

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, RepoType};

use crate::err;
use crate::error::{Context, Error, Kind, Result};

/// Which hub, with which token, cached where.
#[derive(Clone, Debug)]
pub struct Hub {
    /// The address, without a final slash.
    pub endpoint: String,
    /// Sent as bearer token.
    pub token: Option<String>,
    /// The folder of `models--owner--name` and `datasets--owner--name`.
    pub cache: PathBuf,
    /// Use what is cached and never the network.
    pub offline: bool,
}

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepoKind {
    Model,
    Dataset,
}

/// A repository of a hub.
#[derive(Clone, Copy, Debug)]
pub struct Repo<'a> {
    hub: &'a Hub,
    kind: RepoKind,
    /// `owner/name`.
    id: &'a str,
}

/// What a repository answers when it is asked for its files.
pub enum Listing {
    /// Their names, folders separated by `/`.
    Files(Vec<String>),
    /// It could not be asked: no network, or [`Hub::offline`]. The error is for when the cache will not do either.
    Unreachable(Error),
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

    /// The repository `id` (`owner/name`). Asks nobody yet.
    pub fn repo<'a>(&'a self, kind: RepoKind, id: &'a str) -> Repo<'a> {
        Repo { hub: self, kind, id }
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

impl Repo<'_> {
    /// The names of all its files.
    ///
    /// # Errors
    /// The hub does not know the repository, or refuses it: the error then says where to accept its licence.
    pub fn files(&self) -> Result<Listing> {
        if self.hub.offline {
            return Ok(Listing::Unreachable(
                err!("`{}` is not whole in the cache `{}`", self.id, self.hub.cache.display())
                    .hint("unset `HF_HUB_OFFLINE` to download it"),
            ));
        }
        match self.remote()?.info() {
            Ok(info) => Ok(Listing::Files(info.siblings.into_iter().map(|file| file.rfilename).collect())),
            Err(error) if status(&error).is_none() => Ok(Listing::Unreachable(self.explain(error))),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// The path of a file, downloaded where it is not in the cache.
    ///
    /// # Errors
    /// As [`Repo::files`]; the download breaks off.
    pub fn get(&self, name: &str) -> Result<PathBuf> {
        if let Some(path) = self.cached(name) {
            return Ok(path);
        }
        let failed = |error| self.explain(error).context(format!("cannot download `{name}` of `{}`", self.id));
        self.remote()?.download(name).map_err(failed)
    }

    /// The path of a file that is in the cache.
    pub fn cached(&self, name: &str) -> Option<PathBuf> {
        self.local().get(name)
    }

    /// The names of the files that are in the cache.
    pub fn cached_files(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut pending = vec![String::new()];
        while let Some(folder) = pending.pop() {
            let entries = self.cached(&folder).and_then(|path| std::fs::read_dir(path).ok());
            for entry in entries.into_iter().flatten().flatten() {
                let name = format!("{folder}{}", entry.file_name().to_string_lossy());
                if entry.path().is_dir() { pending.push(name + "/") } else { names.push(name) }
            }
        }
        names.sort();
        names
    }

    fn local(&self) -> CacheRepo {
        Cache::new(self.hub.cache.clone()).repo(self.address())
    }

    fn remote(&self) -> Result<ApiRepo> {
        Ok(self.hub.api()?.repo(self.address()))
    }

    fn address(&self) -> hf_hub::Repo {
        let kind = match self.kind {
            RepoKind::Model => RepoType::Model,
            RepoKind::Dataset => RepoType::Dataset,
        };
        hf_hub::Repo::new(self.id.into(), kind)
    }

    /// Where people read about it and accept its licence.
    fn page(&self) -> String {
        match self.kind {
            RepoKind::Model => format!("https://huggingface.co/{}", self.id),
            RepoKind::Dataset => format!("https://huggingface.co/datasets/{}", self.id),
        }
    }

    /// Says what an error of the hub means and what to do about it.
    fn explain(&self, error: ApiError) -> Error {
        let id = self.id;
        let page = self.page();
        let (noun, on_disk) = match self.kind {
            RepoKind::Model => ("model", "a folder"),
            RepoKind::Dataset => ("dataset", "a .jsonl, .json or .parquet file or a folder of them"),
        };
        let token =
            "create a token at https://huggingface.co/settings/tokens and set `HF_TOKEN`, or run `hf auth login`";
        let kind = if matches!(status(&error), Some(401 | 403)) { Kind::Gated } else { Kind::Other };
        let (message, hint) = match status(&error) {
            Some(401) => (
                format!(
                    "the hub refuses the {noun} `{id}` without a valid token: it is gated, private, or does not exist"
                ),
                format!("accept its licence at {page}, {token}"),
            ),
            Some(403) => (
                format!("the hub refuses the {noun} `{id}`: its licence is not accepted, or the token may not read it"),
                format!("accept its licence at {page} with the account of the token; {token}"),
            ),
            Some(404) => (
                format!("`{id}` is neither on this disk nor a {noun} of the hub"),
                format!("check the spelling, or give the path of {on_disk}"),
            ),
            _ => (
                format!("cannot get the {noun} `{id}` from the hub"),
                format!(
                    "check the connection (`HF_ENDPOINT` names another hub), or download it elsewhere and give the path of \
                     {on_disk}"
                ),
            ),
        };
        let failed: Result<(), ApiError> = Err(error);
        failed.context(|| message).map_err(|error| error.hint(hint).of_kind(kind)).unwrap_err()
    }
}

/// The HTTP status that the hub answered with.
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
