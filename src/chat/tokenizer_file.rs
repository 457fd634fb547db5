//! `tokenizer.json`, a file from a stranger: read with limits, obeyed only in how text becomes tokens.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokenizers::models::bpe::BPE;
use tokenizers::{
    DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer, TokenizerImpl,
};

use crate::error::{Context, Result};
use crate::foreign::caught;
use crate::{bail, err};

/// Bytes of a file of a tokenizer. Gemma 3's `tokenizer.json` has 33 MB.
const MAX_FILE: u64 = 256 << 20;
/// Characters that one character may become. Known tokenizers write 1 or 2 for one, Unicode's own rules up to 18.
const MAX_GROWTH: usize = 256;
/// Special tokens that the file adds to a text.
const MAX_ADDED: usize = 1024;

/// The text of a file of a checkpoint that is read whole: an error where it is absurdly large.
///
/// # Errors
/// Names the file: missing, not UTF-8, of more than 256 MB.
pub fn read_text(path: &Path) -> Result<String> {
    let place = || format!("cannot read `{}`", path.display());
    let mut text = String::new();
    let file = File::open(path).context(place)?;
    file.take(MAX_FILE + 1).read_to_string(&mut text).context(place)?;
    if text.len() as u64 > MAX_FILE {
        bail!("`{}` has more than {} MB", path.display(), MAX_FILE >> 20);
    }
    Ok(text)
}

/// A tokenizer that does not panic and neither cuts nor pads.
pub struct TokenizerFile {
    tokenizer: Tokenizer,
    /// Of the file's text.
    sha256: [u8; 32],
}

impl TokenizerFile {
    /// The tokenizer of a `tokenizer.json`, without its `truncation` and `padding`, which transformers ignores too.
    ///
    /// # Errors
    /// Names the file that is missing, malformed, or that multiplies text.
    pub fn load(path: &Path) -> Result<Self> {
        Self::from_json(&read_text(path)?).context(|| format!("`{}` is no tokenizer", path.display()))
    }

    /// [`Self::load`] of the file's text.
    pub fn from_json(json: &str) -> Result<Self> {
        let parts: Parts = serde_json::from_str(json).context(|| "it is not JSON of this kind")?;
        let is_bpe = parts.model.kind == "BPE";
        parts.check_growth()?;
        let mut tokenizer = unpanicked(|| parsed(json, is_bpe).map_err(|error| err!("{error}")))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| err!("{error}"))?;
        Ok(Self { tokenizer, sha256: Sha256::digest(json).into() })
    }

    /// The hash of the text that it was read from.
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// The texts of the added tokens, their ids, and whether they are special.
    pub fn added(&self) -> Vec<(u32, String, bool)> {
        let added = self.tokenizer.get_added_tokens_decoder();
        added.into_iter().map(|(id, token)| (id, token.content.clone(), token.special)).collect()
    }

    pub fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// # Errors
    /// The tokenizer refuses the text, or panics.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding =
            unpanicked(|| self.tokenizer.encode_fast(text, add_special_tokens).map_err(|error| err!("{error}")));
        Ok(encoding.context(|| "the tokenizer refuses the text")?.get_ids().to_vec())
    }

    /// The text of `ids`, control tokens included; empty where there is none.
    pub fn decode(&self, ids: &[u32]) -> String {
        unpanicked(|| self.tokenizer.decode(ids, false).map_err(|error| err!("{error}"))).unwrap_or_default()
    }
}

/// A panic of the crate becomes an error: what it checks of a file it partly checks by asserting.
fn unpanicked<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    // A tokenizer that has panicked keeps what it had: only its caches change after it is loaded.
    caught(|| "the tokenizer's code panics".into(), run)?
}

/// `is_bpe` of what its model is: where the crate knows that, it reads the model's half a million merges three times as fast.
fn parsed(json: &str, is_bpe: bool) -> serde_json::Result<Tokenizer> {
    if is_bpe { serde_json::from_str::<OfBpe>(json).map(Tokenizer::from) } else { serde_json::from_str(json) }
}

type OfBpe = TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// The parts of the file that can multiply a text, and what kind it is of. The rest of it is checked by who reads it.
#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    model: ModelKind,
}

#[derive(Default, Deserialize)]
struct ModelKind {
    #[serde(default, rename = "type")]
    kind: String,
}

impl Parts {
    fn check_growth(&self) -> Result<()> {
        let parts =
            [("normalizer", &self.normalizer), ("pre_tokenizer", &self.pre_tokenizer), ("decoder", &self.decoder)];
        for (name, part) in parts {
            let growth = growth(part);
            if growth > MAX_GROWTH {
                bail!("its `{name}` makes {growth} characters of one: {MAX_GROWTH} are the most");
            }
        }
        let added = added_tokens(&self.post_processor);
        if added > MAX_ADDED {
            bail!("its `post_processor` adds {added} tokens: {MAX_ADDED} are the most");
        }
        Ok(())
    }
}

/// The most characters that one character becomes.
fn growth(part: &Value) -> usize {
    let lists = ["normalizers", "pretokenizers", "decoders"].map(|key| part[key].as_array());
    let inner = lists.into_iter().flatten().flatten().map(growth).fold(1, usize::saturating_mul);
    let written = ["content", "prepend"].map(|key| part[key].as_str().map_or(0, |text| text.chars().count()));
    inner.saturating_mul(written.into_iter().max().unwrap_or(0).max(1))
}

/// How many tokens the steps of a post-processor add to one text.
fn added_tokens(part: &Value) -> usize {
    let inner: usize =
        part["processors"].as_array().into_iter().flatten().map(added_tokens).fold(0, usize::saturating_add);
    let single =
        part["single"].as_array().into_iter().flatten().filter_map(|piece| piece["SpecialToken"]["id"].as_str());
    let ids = |token: &str| part["special_tokens"][token]["ids"].as_array().map_or(0, Vec::len);
    single.map(ids).fold(inner, usize::saturating_add)
}
