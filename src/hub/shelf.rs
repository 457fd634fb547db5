//! A repository's folder in the cache, laid out as huggingface_hub does: `blobs/` by content, `snapshots/COMMIT/` of links to
//! them, `refs/main` with the commit that is current.
//!
//! What a hub answers becomes a part of a path only when it is a plain name.

use std::io::Read;
use std::path::{Path, PathBuf};

use hf_hub::CacheRepo;
use sha1::Sha1;
use sha2::Sha256;
use sha2::digest::{Digest, Output};

use crate::err;
use crate::error::{Context, Result};

/// A repository's folder.
pub(super) struct Shelf(pub CacheRepo);

impl Shelf {
    /// The snapshot that is current, if there is one.
    pub fn current(&self) -> Option<PathBuf> {
        let folder = self.0.get("")?;
        let commit = folder.strip_prefix(self.0.pointer_path("")).ok()?.to_str()?.trim_end_matches('/');
        is_plain(commit).then(|| self.0.pointer_path(commit))
    }

    /// Makes the snapshot of `commit` the current one.
    pub fn make_current(&self, commit: &str) -> Result<()> {
        check_plain("commit", commit)?;
        self.0
            .create_ref(commit)
            .context(|| format!("cannot write the ref of `{}`", self.0.pointer_path(commit).display()))
    }

    /// Where `name` is in the snapshot of `commit`, or will be.
    ///
    /// # Errors
    /// One of them would lead out of the snapshot.
    pub fn place(&self, commit: &str, name: &str) -> Result<PathBuf> {
        check_plain("commit", commit)?;
        check_file_name(name)?;
        Ok(self.0.pointer_path(commit).join(name))
    }

    /// Where contents of this name are, or will be.
    ///
    /// # Errors
    /// The name would lead out of the folder.
    pub fn blob(&self, etag: &str) -> Result<PathBuf> {
        check_plain("etag", etag)?;
        Ok(self.0.blob_path(etag))
    }
}

/// Makes `place`, `depth` folders below the repository's, a link to `blob`.
pub(super) fn link(blob: &Path, place: &Path, depth: usize) -> Result<()> {
    let failed = || format!("cannot write `{}`", place.display());
    let folder = place.parent().unwrap_or(place);
    std::fs::create_dir_all(folder).context(failed)?;
    if place.symlink_metadata().is_ok() {
        std::fs::remove_file(place).context(failed)?;
    }
    let up: PathBuf = std::iter::repeat_n("..", depth).collect();
    let to = up.join("blobs").join(blob.file_name().unwrap_or_default());
    std::os::unix::fs::symlink(to, place).context(failed)
}

/// What the name of contents says about them.
pub(super) enum Hash {
    Sha256([u8; 32]),
    /// Of a blob of git: of `blob SIZE\0` and the contents.
    GitSha1([u8; 20]),
}

impl Hash {
    /// The hash that `etag` spells, if it is one.
    pub fn of_etag(etag: &str) -> Option<Self> {
        match etag.len() {
            64 => from_hex(etag).map(Self::Sha256),
            40 => from_hex(etag).map(Self::GitSha1),
            _ => None,
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "SHA-256",
            Self::GitSha1(_) => "git's SHA-1",
        }
    }

    /// Whether a file has it.
    pub fn fits(&self, path: &Path) -> std::io::Result<bool> {
        match self {
            Self::Sha256(expected) => Ok(digest::<Sha256>(path, |_| String::new())?[..] == expected[..]),
            Self::GitSha1(expected) => Ok(digest::<Sha1>(path, |size| format!("blob {size}\0"))?[..] == expected[..]),
        }
    }
}

/// Whether a cached file is what the name of its contents says. A file whose name says nothing is taken.
pub(super) fn is_intact(place: &Path) -> bool {
    let blob = place.read_link().ok();
    let etag = blob.as_ref().and_then(|blob| blob.file_name()?.to_str());
    match etag.and_then(Hash::of_etag) {
        Some(hash) => hash.fits(place).unwrap_or(false),
        None => place.is_file(),
    }
}

fn digest<D: Digest>(path: &Path, before: impl Fn(u64) -> String) -> std::io::Result<Output<D>> {
    let mut file = std::fs::File::open(path)?;
    let mut digest = D::new();
    digest.update(before(file.metadata()?.len()));
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(digest.finalize()),
            read => digest.update(&buffer[..read]),
        }
    }
}

fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit = |byte: u8| (byte as char).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(*pair.get(1)?)?) as u8;
    }
    Some(bytes)
}

/// One part of a path that leads nowhere else, and that no unfinished download is called.
fn is_plain(name: &str) -> bool {
    let letters = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    let taken = name.ends_with(".incomplete") || name.ends_with(".lock");
    letters && !taken && !name.starts_with('.') && (1..=128).contains(&name.len())
}

fn check_plain(what: &str, name: &str) -> Result<()> {
    if is_plain(name) {
        return Ok(());
    }
    Err(err!("the hub names the {what} `{}`, which is not a plain name: nothing is written", name.escape_debug()))
}

/// A path of plain parts below a folder, as repositories have them.
fn check_file_name(name: &str) -> Result<()> {
    let bad = |part: &str| matches!(part, "" | "." | "..") || part.contains(|c: char| c == '\\' || c.is_control());
    if name.len() > 1024 || name.split('/').any(bad) {
        return Err(err!(
            "the hub lists the file name `{}`, which leads out of a folder or nowhere",
            name.escape_debug()
        ));
    }
    Ok(())
}
