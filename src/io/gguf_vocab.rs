//! A tokenizer as GGUF has it: every token's text, score and type, as llama.cpp's converter derives them from Gemma's
//! SentencePiece model.
//!
//! Gemma's `tokenizer.json` is a BPE whose merges are in the order of SentencePiece's scores. llama.cpp merges the pair whose
//! piece has the highest score, so the n-th piece that the merges make has the score -n.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use crate::chat::functiongemma::tokens;
use crate::error::{Context, Result};
use crate::{bail, err};

/// What SentencePiece writes for a space.
const SPACE: &str = "\u{2581}";
/// What a parser of calls must see: llama.cpp does not print control tokens.
const VISIBLE: [&str; 7] = [
    tokens::START_DECLARATION,
    tokens::END_DECLARATION,
    tokens::START_CALL,
    tokens::END_CALL,
    tokens::START_RESPONSE,
    tokens::END_RESPONSE,
    tokens::ESCAPE,
];

/// llama.cpp's types of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenType {
    /// A piece of text.
    Normal = 1,
    /// Never text, and not printed.
    Control = 3,
    /// Found in a text before anything is merged.
    UserDefined = 4,
    /// Stands for a row of the embedding that no token has.
    Unused = 5,
    /// One byte of what no piece writes.
    Byte = 6,
}

/// The lists `tokenizer.ggml.tokens`, `.scores` and `.token_type`, by id.
#[derive(Debug)]
pub struct GgufVocab {
    pub tokens: Vec<String>,
    pub scores: Vec<f32>,
    pub types: Vec<i32>,
}

#[derive(Deserialize)]
struct Kind {
    model: KindOfModel,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
}

#[derive(Deserialize)]
struct KindOfModel {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    byte_fallback: bool,
}

#[derive(Deserialize)]
struct Tokenizer {
    model: Bpe,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct Bpe {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

/// Two pieces that become one; older files have them as `a b`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

impl GgufVocab {
    /// Of a `tokenizer.json` of Gemma's kind, for an embedding of `vocab_size` rows: an id that no token has is listed as unused, and
    /// tokens that the embedding does not hold are left out.
    ///
    /// # Errors
    /// It is not such a file, or two tokens have one id.
    pub fn parse(json: &str, vocab_size: usize) -> Result<Self> {
        require_gemma(&serde_json::from_str(json).context(|| "it is no tokenizer")?)?;
        let Tokenizer { model, added_tokens } = serde_json::from_str(json).context(|| "it is no tokenizer")?;
        let mut entries: Vec<Option<(&str, TokenType)>> = vec![None; vocab_size];
        let added = added_tokens.iter().map(|token| (token.content.as_str(), token.id, type_of_added(token)));
        // A token that was renamed keeps its id: what is added comes last.
        let pieces = model.vocab.iter().map(|(text, id)| (text.as_str(), *id, type_of_piece(text)));
        for (text, id, kind) in pieces {
            if let Some(entry) = entries.get_mut(id as usize)
                && let Some((other, _)) = entry.replace((text, kind))
            {
                bail!("the tokens `{other}` and `{text}` both have the id {id}");
            }
        }
        for (text, id, kind) in added {
            if let Some(entry) = entries.get_mut(id as usize) {
                *entry = Some((text, kind));
            }
        }
        let scores = scores(&entries, &model);
        let token = |(id, entry): (usize, &Option<(&str, TokenType)>)| match entry {
            // These are looked for in the text as it comes, with its spaces.
            Some((text, TokenType::UserDefined)) => text.replace(SPACE, " "),
            Some((text, _)) => (*text).to_owned(),
            None => format!("[PAD{id}]"),
        };
        Ok(Self {
            tokens: entries.iter().enumerate().map(token).collect(),
            scores,
            types: entries.iter().map(|entry| entry.map_or(TokenType::Unused, |(_, kind)| kind) as i32).collect(),
        })
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.tokens.iter().position(|text| text == token).map(|id| id as u32)
    }
}

/// Whether llama.cpp's SentencePiece code splits text as this tokenizer does.
fn require_gemma(tokenizer: &Kind) -> Result<()> {
    let is_space = |part: &Value| part["pattern"]["String"] == " ";
    let normalizer = &tokenizer.normalizer;
    let normalizer = match normalizer["normalizers"].as_array().map(Vec::as_slice) {
        Some([only]) => only,
        _ => normalizer,
    };
    let marks_spaces = normalizer["type"] == "Replace" && is_space(normalizer) && normalizer["content"] == SPACE;
    // After that there is no space left to split at.
    let pre_tokenizer = &tokenizer.pre_tokenizer;
    let splits_nothing = pre_tokenizer.is_null() || (pre_tokenizer["type"] == "Split" && is_space(pre_tokenizer));
    if tokenizer.model.r#type == "BPE" && tokenizer.model.byte_fallback && marks_spaces && splits_nothing {
        return Ok(());
    }
    Err(err!("it is not of Gemma's kind: a BPE with `byte_fallback` and `{SPACE}` for spaces").hint(
        "llama.cpp would split text in another way than the model was trained with; \
         only models with the tokenizer of Gemma can be exported",
    ))
}

fn type_of_piece(text: &str) -> TokenType {
    let is_byte = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')).is_some_and(|hex| hex.len() == 2);
    if is_byte { TokenType::Byte } else { TokenType::Normal }
}

fn type_of_added(token: &AddedToken) -> TokenType {
    let text = token.content.as_str();
    let is_unused = text.starts_with("<unused") && text.ends_with('>');
    match VISIBLE.contains(&text) {
        true => TokenType::UserDefined,
        false if token.special || is_unused || text == tokens::MASK => TokenType::Control,
        false => TokenType::UserDefined,
    }
}

fn scores(entries: &[Option<(&str, TokenType)>], model: &Bpe) -> Vec<f32> {
    let fixed = |entry: &Option<(&str, TokenType)>| match entry.map(|(_, kind)| kind) {
        Some(TokenType::Normal) => None,
        Some(TokenType::Byte) => Some(0.0),
        Some(_) => Some(-1000.0),
        None => Some(-10000.0),
    };
    let mut scores: Vec<Option<f32>> = entries.iter().map(fixed).collect();
    let mut count = 0.0;
    let mut rank = |score: &mut Option<f32>| {
        if score.is_none() {
            *score = Some(-count);
            count += 1.0;
        }
    };
    for merge in &model.merges {
        let piece = match merge {
            Merge::Pair(left, right) => format!("{left}{right}"),
            Merge::Line(line) => line.replacen(' ', "", 1),
        };
        if let Some(score) = model.vocab.get(&piece).and_then(|id| scores.get_mut(*id as usize)) {
            rank(score);
        }
    }
    // No merge makes a single character, so its score is never asked for.
    scores.iter_mut().for_each(&mut rank);
    scores.into_iter().flatten().collect()
}
