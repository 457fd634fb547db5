//! Which algorithm of cuBLASLt's was chosen for which product: as text, which checkpoints hold, and in a file of the user's cache
//! folder, so that the next start chooses the same and measures nothing.
//!
//! NVIDIA lets the 64 bytes of an algorithm be stored and used again by the same version of the library. So a text names what it is for
//! (GPU, driver, library), and is of no use to anything else; and the library checks an algorithm again before it runs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{fs, io};

use sha2::{Digest, Sha256};

/// What a text begins with; another layout, or other bounds for algorithms, have another number.
const MAGIC: &str = "engine products 2";
/// Products in a file: of some dozen jobs. What comes beyond is chosen anew each time.
const MOST: usize = 4096;
/// A file of so many is shorter.
const MOST_BYTES: u64 = 4 << 20;

/// An algorithm of cuBLASLt's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Algorithm {
    /// What the library holds it in.
    pub words: [u64; 8],
    /// Bytes of scratch that it takes.
    pub workspace: usize,
}

/// Algorithms by what they were chosen for, as [`describe`](super::products::describe) has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choices(pub BTreeMap<String, Algorithm>);

impl Choices {
    /// As text. `platform`: all that they are good for.
    pub fn text(&self, platform: &str) -> String {
        let mut text = format!("{MAGIC}\n{platform}\n");
        for (product, Algorithm { words, workspace }) in &self.0 {
            words.iter().for_each(|word| _ = write!(text, "{word:016x}"));
            _ = writeln!(text, " {workspace} {product}");
        }
        let hash = hash_of(&text);
        text + &hash
    }

    /// Those of a text; None when it is damaged, or of something else than `platform`.
    pub fn parse(text: &str, platform: &str) -> Option<Self> {
        let lines = text.strip_prefix(MAGIC)?.strip_prefix('\n')?.strip_prefix(platform)?.strip_prefix('\n')?;
        let (lines, hash) = lines.split_at_checked(lines.rfind('\n').map_or(0, |end| end + 1))?;
        if hash != hash_of(text.strip_suffix(hash)?) {
            return None;
        }
        lines.lines().map(choice).collect::<Option<_>>().map(Self)
    }
}

/// A line of the text.
fn choice(line: &str) -> Option<(String, Algorithm)> {
    let (algorithm, rest) = line.split_once(' ')?;
    let (workspace, product) = rest.split_once(' ')?;
    let mut words = [0; 8];
    for (i, word) in words.iter_mut().enumerate() {
        *word = u64::from_str_radix(algorithm.get(16 * i..16 * (i + 1))?, 16).ok()?;
    }
    Some((product.to_owned(), Algorithm { words, workspace: workspace.parse().ok()? }))
}

fn hash_of(text: &str) -> String {
    let mut hash = String::new();
    Sha256::digest(text).iter().for_each(|byte| _ = write!(hash, "{byte:02x}"));
    hash
}

/// The file of one platform. What cannot be read is as if it were not there, and what cannot be written is not kept: products are
/// then chosen anew.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    platform: String,
}

impl File {
    /// In this folder, which need not be there.
    pub fn new(folder: &Path, platform: &str) -> Self {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
        let name: String = platform.chars().map(plain).collect();
        Self { path: folder.join(name + ".products"), platform: platform.to_owned() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was chosen for a product.
    pub fn get(&self, product: &str) -> Option<Algorithm> {
        self.read().and_then(|choices| choices.0.get(product).copied())
    }

    /// Keeps a choice, unless another process has kept one meanwhile: that is the next one's then.
    pub fn keep(&self, product: &str, algorithm: Algorithm) {
        let mut choices = self.read().unwrap_or_default();
        if choices.0.len() < MOST && !choices.0.contains_key(product) {
            choices.0.insert(product.to_owned(), algorithm);
            let _ = self.write(&choices);
        }
    }

    fn read(&self) -> Option<Choices> {
        let small = fs::metadata(&self.path).is_ok_and(|file| file.is_file() && file.len() <= MOST_BYTES);
        let text = small.then(|| fs::read_to_string(&self.path).ok())??;
        Choices::parse(&text, &self.platform)
    }

    fn write(&self, choices: &Choices) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        io::Write::write_all(&mut file, choices.text(&self.platform).as_bytes())?;
        file.persist(&self.path)?;
        Ok(())
    }
}
