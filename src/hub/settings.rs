//! Which hub, with which token, cached where.
//!
//! Honoured: `HF_TOKEN`, the token file of `hf auth login`, `HF_HOME`, `XDG_CACHE_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`,
//! `HF_HUB_OFFLINE`, `HF_HUB_DOWNLOAD_TIMEOUT`.

use std::path::PathBuf;
use std::time::Duration;

use hf_hub::Cache;

use crate::cache;
use crate::err;
use crate::error::{Error, Result};

/// Which hub, with which token, cached where.
#[derive(Clone)]
pub struct Hub {
    /// The address, without a final slash.
    pub endpoint: String,
    /// Sent as bearer token, to the endpoint's scheme, host and port alone.
    pub token: Option<String>,
    /// The folder of `models--owner--name` and `datasets--owner--name`.
    pub cache: PathBuf,
    /// Use what is cached and never the network.
    pub offline: bool,
    /// How long the hub may take for every phase of a request, and for every further kilobyte.
    pub patience: Duration,
}

impl Hub {
    /// [`Hub::patience`] where nothing says otherwise.
    pub const PATIENCE: Duration = Duration::from_secs(30);

    /// The hub that the environment describes.
    ///
    /// # Errors
    /// Nothing says where the cache is, or a setting makes no sense.
    pub fn from_env() -> Result<Self> {
        Self::from_settings(|name| std::env::var(name).ok(), std::env::home_dir())
    }

    /// The hub that these settings, by the names of environment variables, describe for a user whose folder is `home`.
    ///
    /// # Errors
    /// As [`Hub::from_env`].
    pub fn from_settings(setting: impl Fn(&str) -> Option<String>, home: Option<PathBuf>) -> Result<Self> {
        let set = |name: &str| setting(name).map(|v| v.trim().to_string()).filter(|v| !v.is_empty());
        let cache_home = cache::home(&setting, home);
        let hf_home = set("HF_HOME").map(PathBuf::from).or_else(|| cache_home.map(|home| home.join("huggingface")));
        let hub = hf_home.map(|home| home.join("hub"));
        let cache = set("HF_HUB_CACHE").map(PathBuf::from).or_else(|| hub.clone()).ok_or_else(|| {
            err!("there is no place for downloads: `HOME` is not set")
                .hint("set `HF_HOME` or `HF_HUB_CACHE` to a folder, or give the path of a model or dataset on disk")
        })?;
        Ok(Self {
            endpoint: set("HF_ENDPOINT")
                .map_or("https://huggingface.co".into(), |url| url.trim_end_matches('/').into()),
            token: set("HF_TOKEN").or_else(|| hub.and_then(|hub| Cache::new(hub).token())),
            cache,
            offline: set("HF_HUB_OFFLINE").is_some_and(|value| value != "0"),
            patience: set("HF_HUB_DOWNLOAD_TIMEOUT").map_or(Ok(Self::PATIENCE), |text| seconds(&text))?,
        })
    }
}

fn seconds(text: &str) -> Result<Duration> {
    match text.parse() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err(Error::usage(format!("`HF_HUB_DOWNLOAD_TIMEOUT` is `{text}`; expected seconds, 1 to 86400"))),
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { endpoint, token, cache, offline, patience } = self;
        let token = token.as_ref().map(|_| "***");
        write!(f, "Hub {{ endpoint: {endpoint:?}, token: {token:?}, cache: {cache:?}, ")?;
        write!(f, "offline: {offline}, patience: {patience:?} }}")
    }
}
