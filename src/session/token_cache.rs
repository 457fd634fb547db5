//! Tokenized rows of large datasets, kept in the user's cache folder: the second start of a run does not tokenize again.
//!
//! A file is named after a hash of all that its tokens follow from: the rows as they were read, what is scored, the tokenizer, the
//! chat template, this program. It is written to another name first, its own SHA-256 last, and nothing of it is believed before that
//! is right. Limits on length come later and are not part of it.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rayon::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::batch::Example;
use crate::cache;
use crate::chat::tokenizer::{ChatTokenizer, LossOn};
use crate::data::rows::{Row, RowContent};
use crate::error::{Context, Result};
use crate::io::manifest::hex;
use crate::{bail, err};

/// What a file begins with; another layout has another number.
const MAGIC: &[u8; 16] = b"engine tokens 1\n";
/// What a file has beside its examples: this, the hash that names it, their number, and its own hash.
const FRAME: u64 = 16 + 32 + 8 + 32;
/// Rows that are hashed by one task.
const CHUNK: usize = 1024;
const _: () = assert!(cfg!(target_endian = "little"), "files are little-endian");

/// A folder of tokenized rows.
#[derive(Clone, Debug)]
pub struct TokenCache {
    pub folder: PathBuf,
    /// Rows that took less are not worth a file.
    pub patience: Duration,
    /// Bytes of all files together: the longest unused go first.
    pub most_bytes: u64,
}

/// The place of some rows in the cache.
#[derive(Debug)]
pub struct Entry<'a> {
    cache: &'a TokenCache,
    key: [u8; 32],
}

impl TokenCache {
    /// That of the user: `engine/tokens` in `XDG_CACHE_HOME` or `~/.cache`. None: nothing says where that is.
    pub fn of_user() -> Option<Self> {
        cache::folder("tokens").map(Self::in_folder)
    }

    pub fn in_folder(folder: PathBuf) -> Self {
        Self { folder, patience: Duration::from_secs(1), most_bytes: 4 << 30 }
    }

    /// Where the tokens of these rows are or will be, of which `loss` says what is scored. None: they are not the same each time, for the template asks for the date.
    pub fn entry(&self, tokenizer: &ChatTokenizer, rows: &[Row], loss: Option<LossOn>) -> Option<Entry<'_>> {
        if tokenizer.template().source().contains("strftime_now") {
            return None;
        }
        let mut hash = Sha256::new();
        hash.update(program());
        hash.update(tokenizer.fingerprint());
        hash.update(format!("{loss:?}"));
        let parts: Vec<_> = rows.par_chunks(CHUNK).map(hash_of).collect();
        parts.iter().for_each(|part| hash.update(part));
        Some(Entry { cache: self, key: hash.finalize().into() })
    }

    /// Removes what was not used for longest until there is room for so many bytes more; whether there is.
    fn make_room(&self, bytes: u64) -> io::Result<bool> {
        if bytes > self.most_bytes {
            return Ok(false);
        }
        let mut files = Vec::new();
        for file in fs::read_dir(&self.folder)? {
            let (path, metadata) = file.and_then(|file| Ok((file.path(), file.metadata()?)))?;
            if metadata.is_file() {
                files.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), path, metadata.len()));
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, _, length)| length).sum();
        for (_, path, length) in files {
            if total + bytes <= self.most_bytes {
                break;
            }
            fs::remove_file(path)?;
            total -= length;
        }
        Ok(true)
    }
}

impl Entry<'_> {
    /// The file that holds the tokens.
    pub fn path(&self) -> PathBuf {
        self.cache.folder.join(format!("{}.tokens", hex(&self.key)))
    }

    /// The examples of `rows`, if they are there and the model has all of their tokens.
    ///
    /// # Errors
    /// The file is there and cannot be read, or is damaged.
    pub fn read(&self, rows: &[Row], tokenizer: &ChatTokenizer) -> Result<Option<Vec<Example>>> {
        let path = self.path();
        let file = match File::open(&path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            opened => opened.context(|| format!("cannot read `{}`", path.display()))?,
        };
        let examples = read(file, &self.key, rows).context(|| format!("`{}` is damaged", path.display()))?;
        // What was used last is kept longest; a folder that cannot be written to is no reason not to use it.
        let _ = File::options().append(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Ok(examples.iter().all(|example| tokenizer.knows(&example.ids)).then_some(examples))
    }

    /// Keeps the examples, if it took long enough to make them.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn keep(&self, examples: &[Example], took: Duration) -> Result<()> {
        if took < self.cache.patience {
            return Ok(());
        }
        self.write(examples).context(|| format!("cannot keep tokens in `{}`", self.cache.folder.display()))
    }

    fn write(&self, examples: &[Example]) -> io::Result<()> {
        fs::create_dir_all(&self.cache.folder)?;
        let bytes = examples.iter().map(|example| bytes_of(example.ids.len())).sum::<u64>() + FRAME;
        if !self.cache.make_room(bytes)? {
            return Ok(());
        }
        let file = tempfile::NamedTempFile::new_in(&self.cache.folder)?;
        let mut out = Hashed { inner: BufWriter::new(file), hash: Sha256::new() };
        out.put(MAGIC)?;
        out.put(&self.key)?;
        out.put(&(examples.len() as u64).to_le_bytes())?;
        for example in examples {
            out.put(&(example.ids.len() as u32).to_le_bytes())?;
            out.put(bytemuck::cast_slice(&example.ids))?;
            let bits: Vec<u8> = example.scored.chunks(8).map(|bits| bits.iter().rev().fold(0, fold_bit)).collect();
            out.put(&bits)?;
        }
        let Hashed { mut inner, hash } = out;
        inner.write_all(&hash.finalize())?;
        inner.into_inner()?.persist(self.path())?;
        Ok(())
    }
}

fn fold_bit(byte: u8, bit: &bool) -> u8 {
    byte << 1 | u8::from(*bit)
}

/// Bytes of an example of so many tokens.
fn bytes_of(tokens: usize) -> u64 {
    (4 + 4 * tokens + tokens.div_ceil(8)) as u64
}

fn read(file: File, key: &[u8; 32], rows: &[Row]) -> Result<Vec<Example>> {
    let mut left = file.metadata().context(|| "its size is unknown")?.len();
    let mut file = Hashed { inner: BufReader::with_capacity(1 << 20, file), hash: Sha256::new() };
    if file.take::<16>()? != *MAGIC || file.take::<32>()? != *key {
        bail!("it is of something else");
    }
    if u64::from_le_bytes(file.take()?) != rows.len() as u64 {
        bail!("it is of another number of rows");
    }
    left = left.saturating_sub(FRAME);
    let mut examples = Vec::with_capacity(rows.len());
    for row in rows {
        let tokens = u32::from_le_bytes(file.take()?) as usize;
        left = left.checked_sub(bytes_of(tokens)).ok_or_else(|| err!("it is cut short"))?;
        let mut ids = vec![0u32; tokens];
        file.fill(bytemuck::cast_slice_mut(&mut ids))?;
        let mut bits = vec![0u8; tokens.div_ceil(8)];
        file.fill(&mut bits)?;
        let scored = (0..tokens).map(|i| bits[i / 8] >> (i % 8) & 1 == 1).collect();
        examples.push(Example { ids, scored, origin: row.origin.to_string() });
    }
    let Hashed { mut inner, hash } = file;
    let mut expected = [0; 32];
    inner.read_exact(&mut expected).context(|| "it is cut short")?;
    if left > 0 || expected != <[u8; 32]>::from(hash.finalize()) {
        bail!("its contents are not what was written");
    }
    Ok(examples)
}

/// A reader or writer, with the hash of what has passed.
struct Hashed<T> {
    inner: T,
    hash: Sha256,
}

impl<T: Write> Hashed<T> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.inner.write_all(bytes)
    }
}

impl<T: Read> Hashed<T> {
    fn fill(&mut self, out: &mut [u8]) -> Result<()> {
        self.inner.read_exact(out).context(|| "it is cut short")?;
        self.hash.update(out);
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}

/// This program: its version, and the file that it is, for one that is being worked on keeps its version.
fn program() -> String {
    let file = |path: PathBuf| -> io::Result<String> {
        let metadata = fs::metadata(path)?;
        Ok(format!("{} {:?}", metadata.len(), metadata.modified()?))
    };
    let file = std::env::current_exe().and_then(file).unwrap_or_default();
    format!("{} {file}", env!("CARGO_PKG_VERSION"))
}

/// Of the contents of some rows, in their order.
fn hash_of(rows: &[Row]) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut last: Option<(&Arc<Vec<Value>>, [u8; 32])> = None;
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for row in rows {
        match &row.content {
            RowContent::Chat { messages, tools, prompt_messages } => {
                // Rows of one dataset share their tools.
                let of_tools = match last {
                    Some((last, hash)) if Arc::ptr_eq(last, tools) => hash,
                    _ => Sha256::digest(json(&**tools)).into(),
                };
                last = Some((tools, of_tools));
                add(&of_tools);
                add(&json(&(messages, prompt_messages)));
            }
            RowContent::Text { prompt, text } => add(&json(&(prompt, text))),
        }
    }
    hash.finalize().into()
}

/// As text, in which the order of keys is kept.
fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// The examples of rows out of the cache, if it has them; that it cannot be read is told by `warn`.
pub fn cached(
    entry: Option<&Entry>,
    rows: &[Row],
    tokenizer: &ChatTokenizer,
    mut warn: impl FnMut(String),
) -> Option<Vec<Example>> {
    entry?.read(rows, tokenizer).unwrap_or_else(|error| {
        warn(format!("{}; the rows are tokenized again", error.line()));
        None
    })
}
