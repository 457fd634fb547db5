//! One file of a hub becomes contents in the cache: whole and checked, or not there.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hf_hub::api::Progress;
use rustix::fs::{FlockOperation, OFlags, flock, statvfs};
use url::Url;

use super::shelf::{Hash, Shelf};
use super::transport::{Answer, Failure, Transport};
use crate::err;
use crate::error::{Context, Error, Result};

/// Times that a download which breaks off is taken up again.
const RETRIES: usize = 2;
/// A hub that sends fewer bytes than this while patience lasts is given up.
const LEAST_BYTES: u64 = 1 << 10;

/// What is fetched, and how it is shown.
pub(super) struct Download<'a> {
    pub transport: &'a Transport,
    pub url: Url,
    /// The file's name, for people.
    pub name: &'a str,
    pub patience: Duration,
}

impl Download<'_> {
    /// The path of the contents in `shelf`, fetched unless they are there and good.
    pub fn run(&self, shelf: &Shelf, progress: &mut dyn Progress) -> Result<PathBuf, Failure> {
        let answer = self.transport.get(self.url.clone(), 0)?;
        let etag =
            answer.facts.etag.clone().ok_or_else(|| err!("the hub gives no etag: nothing names the contents"))?;
        let size = whole_size(&answer, 0).ok_or_else(|| err!("the hub does not say how large the file is"))?;
        let blob = shelf.blob(&etag)?;
        let target = Target { hash: Hash::of_etag(&etag), size };
        if target.check(&blob).is_ok() {
            return Ok(blob);
        }
        let mut part = Part::open(&blob, self.patience)?;
        if target.check(&blob).is_ok() {
            // Another process has just fetched it.
            part.remove()?;
            return Ok(blob);
        }
        require_space(&blob, size)?;
        // What shows it cuts it anywhere.
        let shown = self.name.replace(|c: char| !c.is_ascii(), "?");
        progress.init(size.try_into().unwrap_or(usize::MAX), &shown);
        self.fill(&mut part, &target, answer, progress)?;
        progress.finish();
        part.become_blob(&blob)?;
        Ok(blob)
    }

    /// Fetches what is missing, until the part is what `target` says.
    fn fill(
        &self,
        part: &mut Part,
        target: &Target,
        first: Answer,
        progress: &mut dyn Progress,
    ) -> Result<(), Failure> {
        // A part is only trusted where a hash will tell whether it was any good.
        let mut start = if target.hash.is_some() && part.len()? <= target.size { part.len()? } else { 0 };
        let mut answer = (start == 0).then_some(first);
        let mut left = RETRIES;
        loop {
            let failed = match self.attempt(part, target, (start, answer.take()), progress) {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            let bad = part.len()? >= target.size;
            if left == 0 || (bad && start == 0) || matches!(failed, Failure::Status(401 | 403 | 404)) {
                if bad {
                    part.file.set_len(0).context(|| "cannot empty the part")?;
                }
                return Err(failed);
            }
            left -= 1;
            start = if bad || target.hash.is_none() { 0 } else { part.len()? };
            std::thread::sleep(Duration::from_millis(300).min(self.patience));
        }
    }

    /// Appends to the part's first `start` bytes, from `answer` if there is one already.
    fn attempt(
        &self,
        part: &mut Part,
        target: &Target,
        (mut start, answer): (u64, Option<Answer>),
        progress: &mut dyn Progress,
    ) -> Result<(), Failure> {
        if start < target.size || target.size == 0 {
            let answer = match answer {
                Some(answer) => answer,
                None => self.transport.get(self.url.clone(), start)?,
            };
            if !answer.partial || whole_size(&answer, start) != Some(target.size) {
                start = 0;
            }
            part.keep(start)?;
            progress.update(start.try_into().unwrap_or(usize::MAX));
            self.copy(answer, part, target.size - start, progress)?;
        }
        Ok(target.check(&part.path)?)
    }

    /// Copies at most `most` bytes and one more, so that a body that is too long is seen.
    fn copy(&self, answer: Answer, part: &mut Part, most: u64, progress: &mut dyn Progress) -> Result<(), Failure> {
        let mut body = answer.body.into_reader().take(most.saturating_add(1));
        let mut buffer = vec![0; 1 << 18];
        let (mut since, mut lately) = (Instant::now(), 0);
        loop {
            let broke = || format!("the download of `{}` broke off", self.name);
            let read = body.read(&mut buffer).context(broke).map_err(Failure::Connection)?;
            if read == 0 {
                return Ok(());
            }
            part.file.write_all(&buffer[..read]).context(|| format!("cannot write `{}`", part.path.display()))?;
            progress.update(read);
            lately += read as u64;
            if since.elapsed() > self.patience {
                if lately < LEAST_BYTES {
                    return Err(Failure::Connection(err!("{}: the hub sends next to nothing", broke())));
                }
                (since, lately) = (Instant::now(), 0);
            }
        }
    }
}

/// The size of the whole file, by an answer that begins at byte `start`: None when the answer does not say, or begins
/// elsewhere.
fn whole_size(answer: &Answer, start: u64) -> Option<u64> {
    if answer.partial {
        let range = answer.headers.get("content-range")?.to_str().ok()?.strip_prefix("bytes ")?;
        let (part, size) = range.split_once('/')?;
        let begins = part.split_once('-')?.0.parse() == Ok(start);
        return size.parse().ok().filter(|_| begins);
    }
    answer.facts.size.or_else(|| answer.body.content_length())
}

fn require_space(blob: &Path, size: u64) -> Result<()> {
    let folder = blob.parent().unwrap_or(blob);
    let Ok(disk) = statvfs(folder) else { return Ok(()) };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < size {
        return Err(err!(
            "the disk of `{}` has {} MB free; the file has {} MB",
            folder.display(),
            free >> 20,
            size >> 20
        )
        .hint("free some space, or set `HF_HUB_CACHE` to a folder on another disk"));
    }
    Ok(())
}

/// What contents must be.
struct Target {
    hash: Option<Hash>,
    size: u64,
}

impl Target {
    /// Whether the file is whole and right.
    fn check(&self, path: &Path) -> Result<()> {
        let failed = || format!("cannot read `{}`", path.display());
        let found = fs::symlink_metadata(path).context(failed)?.len();
        if found != self.size {
            return Err(err!("{found} bytes came where the hub announced {}", self.size));
        }
        match &self.hash {
            Some(hash) if !hash.fits(path).context(failed)? => {
                Err(err!("the {} of what came is not the one that the hub announced", hash.name()))
            }
            _ => Ok(()),
        }
    }
}

/// Contents that are not whole yet, beside where they will be. One process at a time has them.
struct Part {
    path: PathBuf,
    file: File,
}

impl Part {
    /// Opens what an earlier download left, or starts anew. Waits for another process as long as it makes progress.
    fn open(blob: &Path, patience: Duration) -> Result<Self> {
        let path = PathBuf::from(format!("{}.incomplete", blob.display()));
        let failed = || format!("cannot write `{}`", path.display());
        fs::create_dir_all(blob.parent().unwrap_or(blob)).context(failed)?;
        let no_link = OFlags::NOFOLLOW.bits() as i32;
        let mut options = File::options();
        options.append(true).create(true).custom_flags(no_link);
        let (mut since, mut seen) = (Instant::now(), 0);
        loop {
            let file = options.open(&path).context(failed)?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() && is_at(&file, &path) {
                return Ok(Self { path, file });
            }
            let now = file.metadata().context(failed)?.len();
            if now != seen {
                (since, seen) = (Instant::now(), now);
            }
            if since.elapsed() > patience {
                return Err(err!("another process holds `{}` and does nothing", path.display()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().context(|| format!("cannot read `{}`", self.path.display()))?.len())
    }

    /// Cuts it to its first `len` bytes.
    fn keep(&mut self, len: u64) -> Result<()> {
        self.file.set_len(len).context(|| format!("cannot write `{}`", self.path.display()))
    }

    fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).context(|| format!("cannot remove `{}`", self.path.display()))
    }

    fn become_blob(self, blob: &Path) -> Result<(), Error> {
        let failed = || format!("cannot write `{}`", blob.display());
        self.file.sync_all().context(failed)?;
        fs::rename(&self.path, blob).context(failed)
    }
}

/// Whether an open file still has this path: another process may have renamed it meanwhile.
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((file.metadata(), fs::symlink_metadata(path)), (Ok(a), Ok(b)) if id(&a) == id(&b))
}
