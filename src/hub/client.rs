//! What a repository of the hub has, and its files, downloaded into the hub's usual cache.

use std::path::{Path, PathBuf};

use hf_hub::api::{Progress, RepoInfo};
use hf_hub::{Cache, RepoType};

use super::download::Download;
use super::is_hub_id;
use super::settings::Hub;
use super::shelf::{Shelf, is_intact, link};
use super::transport::{Failure, Transport};
use crate::err;
use crate::error::{Context, Error, Kind, Result};

/// Bytes of the list of a repository's files that are read at most.
const MAX_LISTING: u64 = 64 << 20;

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
pub enum Listing<'a> {
    /// What it has now.
    Files(Snapshot<'a>),
    /// It could not be asked: no network, or [`Hub::offline`]. The error is for when the cache will not do either.
    Unreachable(Error),
}

/// A repository as of one commit.
pub struct Snapshot<'a> {
    repo: Repo<'a>,
    commit: String,
    /// The names of its files, folders separated by `/`.
    pub names: Vec<String>,
}

impl Hub {
    /// The repository `id` (`owner/name`). Asks nobody yet.
    pub fn repo<'a>(&'a self, kind: RepoKind, id: &'a str) -> Repo<'a> {
        Repo { hub: self, kind, id }
    }
}

impl<'a> Repo<'a> {
    /// What it has now.
    ///
    /// # Errors
    /// The hub does not know the repository, or refuses it: the error then says where to accept its licence. Or it answers
    /// with something that makes no sense.
    pub fn files(&self) -> Result<Listing<'a>> {
        if self.hub.offline {
            return Ok(Listing::Unreachable(
                err!("`{}` is not whole in the cache `{}`", self.id, self.hub.cache.display())
                    .hint("unset `HF_HUB_OFFLINE` to download it"),
            ));
        }
        match self.listing() {
            Ok(info) => {
                let names = info.siblings.into_iter().map(|file| file.rfilename).collect();
                self.shelf().place(&info.sha, "x").map_err(|error| self.explain(Failure::Other(error)))?;
                Ok(Listing::Files(Snapshot { repo: *self, commit: info.sha, names }))
            }
            Err(failure @ (Failure::Connection(_) | Failure::Status(500..))) => {
                Ok(Listing::Unreachable(self.explain(failure)))
            }
            Err(failure) => Err(self.explain(failure)),
        }
    }

    /// The path of a file that is in the cache, whole or not.
    pub fn cached(&self, name: &str) -> Option<PathBuf> {
        self.shelf().current().map(|snapshot| snapshot.join(name)).filter(|path| path.exists())
    }

    /// [`Repo::cached`], for a file that is what the name of its contents says.
    pub fn intact(&self, name: &str) -> Option<PathBuf> {
        self.cached(name).filter(|path| is_intact(path))
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

    fn listing(&self) -> Result<RepoInfo, Failure> {
        if !is_hub_id(self.id) {
            return Err(Failure::Other(err!("`{}` is no `owner/name`", self.id)));
        }
        let transport = self.transport()?;
        let mut answer = transport.get(transport.url(&format!("api/{}", self.address().api_url()))?, 0)?;
        let text = answer.body.with_config().limit(MAX_LISTING).read_to_string();
        let text = text.context(|| "the list of files broke off").map_err(Failure::Connection)?;
        let info =
            serde_json::from_str(&text).context(|| format!("the hub lists the files of `{}` in no known way", self.id));
        info.map_err(|error| Failure::Other(error.hint("is `HF_ENDPOINT` the address of a hub?")))
    }

    fn transport(&self) -> Result<Transport> {
        Transport::new(&self.hub.endpoint, self.hub.token.as_deref(), self.hub.patience)
    }

    fn shelf(&self) -> Shelf {
        Shelf(Cache::new(self.hub.cache.clone()).repo(self.address()))
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
    fn explain(&self, failure: Failure) -> Error {
        let id = self.id;
        let page = self.page();
        let (noun, on_disk) = match self.kind {
            RepoKind::Model => ("model", "a folder"),
            RepoKind::Dataset => ("dataset", "a .jsonl, .json or .parquet file or a folder of them"),
        };
        let token =
            "create a token at https://huggingface.co/settings/tokens and set `HF_TOKEN`, or run `hf auth login`";
        let (status, cause) = match failure {
            Failure::Status(status) => (Some(status), err!("the hub answers with HTTP status {status}")),
            Failure::Connection(cause) => (None, cause),
            Failure::Other(error) => return error,
        };
        let kind = if matches!(status, Some(401 | 403)) { Kind::Gated } else { Kind::Other };
        let (message, hint) = match status {
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
        cause.context(message).hint(hint).of_kind(kind)
    }
}

impl Snapshot<'_> {
    /// The path of a file, downloaded where it is not in the cache, or not intact there.
    ///
    /// # Errors
    /// As [`Repo::files`]; the download breaks off, or is not what the hub announced.
    pub fn get(&self, name: &str) -> Result<PathBuf> {
        let failed = || format!("cannot download `{}` of `{}`", name.escape_debug(), self.repo.id);
        let place = self.repo.shelf().place(&self.commit, name).context(failed)?;
        if !is_intact(&place) {
            self.fetch(name, &place).map_err(|failure| self.repo.explain(failure)).context(failed)?;
        }
        Ok(place)
    }

    /// Says that all is there: from now on this is what the cache has of the repository.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn make_current(&self) -> Result<()> {
        self.repo.shelf().make_current(&self.commit)
    }

    fn fetch(&self, name: &str, place: &Path) -> Result<(), Failure> {
        let transport = self.repo.transport()?;
        let url = transport.url(&format!("{}/resolve/{}/{name}", self.repo.address().url(), self.commit))?;
        let download = Download { transport: &transport, url, name, patience: self.repo.hub.patience };
        let mut bar: Box<dyn Progress> = super::BAR.get().map_or_else(|| Box::new(()) as _, |bar| bar());
        let blob = download.run(&self.repo.shelf(), &mut *bar)?;
        // From `snapshots/COMMIT/`, and one more for every folder of the file.
        let depth = 2 + name.matches('/').count();
        Ok(link(&blob, place, depth)?)
    }
}
