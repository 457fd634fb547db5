//! Rows to token ids: training examples with their scored tokens, and prompts for generation.

use std::path::Path;

use rayon::prelude::*;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::control::{ControlTokens, Rendered};
use super::functiongemma::tokens;
use super::template::{ChatTemplate, load_special_tokens};
use crate::batch::Example;
use crate::data::rows::{Row, RowContent};
use crate::error::{Context, Result};
use crate::{bail, err};

/// Which tokens of an example the loss counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LossOn {
    /// All of them, as TRL does by default.
    #[default]
    All,
    /// The completion: what follows the prompt of `prompt`/`completion` rows, the last assistant message of others.
    Completion,
    /// Every assistant message, with the token that ends it.
    Assistant,
}

/// What a model is asked, and the answer it should give.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// Token ids, bos included.
    pub ids: Vec<u32>,
    /// The rendered text of `ids`.
    pub text: String,
    /// Content of the last user message.
    pub user: String,
    /// The assistant message(s) that should follow; none where the row ends with the user.
    pub expected: Vec<Value>,
    pub tools: Vec<Value>,
    /// `file:line`.
    pub origin: String,
}

/// A checkpoint's tokenizer and chat template.
pub struct ChatTokenizer {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    control: ControlTokens,
    bos: Option<String>,
    eos: Option<String>,
    model_vocab: Option<usize>,
}

impl ChatTokenizer {
    /// The tokenizer and template of a checkpoint folder: `tokenizer.json`, `tokenizer_config.json`,
    /// `special_tokens_map.json` and `chat_template.jinja`, of which only the first must exist.
    ///
    /// # Errors
    /// Names the file that is missing or malformed.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let bytes = std::fs::read(&path).context(|| format!("cannot read `{}`", path.display()))?;
        let tokenizer =
            Tokenizer::from_bytes(bytes).map_err(|error| err!("`{}` is no tokenizer: {error}", path.display()))?;
        let mut special_tokens = load_special_tokens(folder)?;
        for (name, text) in [("bos_token", tokens::BOS), ("eos_token", tokens::EOS), ("pad_token", tokens::PAD)] {
            if !special_tokens.contains_key(name) && tokenizer.token_to_id(text).is_some() {
                special_tokens.insert(name.into(), text.into());
            }
        }
        let (bos, eos) = (special_tokens.get("bos_token").cloned(), special_tokens.get("eos_token").cloned());
        let added = tokenizer.get_added_tokens_decoder();
        let control = ControlTokens::new(added.values().map(|token| (token.content.as_str(), token.special)));
        let template = ChatTemplate::load(folder, special_tokens)?;
        Ok(Self { tokenizer, template, control, bos, eos, model_vocab: None })
    }

    /// Refuses ids that the model's embedding (`vocab_size` of its config) does not hold.
    pub fn with_model_vocab(mut self, model_vocab: usize) -> Self {
        self.model_vocab = Some(model_vocab);
        self
    }

    /// The chat template; its source belongs into the folder of a trained model.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The text of one token; empty for an id that the tokenizer does not have.
    pub fn token_text(&self, id: u32) -> String {
        self.decode(&[id])
    }

    /// The text of `ids`, control tokens included.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(ids, false).unwrap_or_default()
    }

    /// The ids of a text in which control tokens are control tokens; nothing is added.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        self.encode(&Rendered { text: text.into(), cuts: Vec::new() }, false)
    }

    /// The prompt of a row: everything before its final assistant message(s).
    ///
    /// # Errors
    /// Names `file:line`: a template that raises, a row of plain text or one that starts with the assistant.
    pub fn prompt(&self, row: &Row) -> Result<Prompt> {
        self.read_prompt(row).context(|| format!("no prompt can be made from the row at `{}`", row.origin))
    }

    /// A training example with the tokens that `loss` scores.
    ///
    /// # Errors
    /// Names `file:line`: a template that raises, nothing to score, a token that the model does not have.
    pub fn example(&self, row: &Row, loss: LossOn) -> Result<Example> {
        let place = || format!("no example can be made from the row at `{}`", row.origin);
        let (ids, scored) = match &row.content {
            RowContent::Text { prompt, text } => self.text_example(prompt.as_deref(), text, loss),
            RowContent::Chat { messages, tools, prompt_messages } => {
                self.chat_example(messages, tools, *prompt_messages, loss)
            }
        }
        .context(place)?;
        Ok(Example { ids, scored, origin: row.origin.to_string() })
    }

    /// [`Self::example`] for many rows, in parallel and in order.
    pub fn examples(&self, rows: &[Row], loss: LossOn) -> Result<Vec<Example>> {
        rows.par_iter().map(|row| self.example(row, loss)).collect()
    }

    fn read_prompt(&self, row: &Row) -> Result<Prompt> {
        let origin = row.origin.to_string();
        match &row.content {
            RowContent::Chat { messages, tools, prompt_messages } => {
                self.chat_prompt(messages, tools, *prompt_messages, origin)
            }
            RowContent::Text { prompt: Some(prompt), text } => {
                let ids = self.encode_bare(prompt)?;
                let expected = vec![json!({"role": "assistant", "content": text})];
                let (text, user) = (self.decode(&ids), prompt.clone());
                Ok(Prompt { ids, text, user, expected, tools: Vec::new(), origin })
            }
            RowContent::Text { prompt: None, .. } => bail!("the row is plain text without a prompt"),
        }
    }

    fn chat_prompt(
        &self,
        messages: &[Value],
        tools: &[Value],
        prompt_messages: Option<usize>,
        origin: String,
    ) -> Result<Prompt> {
        let open_end = messages.last().is_some_and(|message| message["role"] == "user");
        let split = match prompt_messages {
            Some(count) => count,
            None if open_end => messages.len(),
            None => last_answer(messages).map_or(messages.len(), |(start, _)| start),
        };
        if split == 0 {
            bail!("the row starts with the assistant, so that there is no prompt");
        }
        let mark = self.control.choose_mark(&[messages, tools])?;
        let rendered = self.render(mark, &messages[..split], tools, true)?;
        let ids = self.encode(&rendered, false)?;
        let user = messages[..split].iter().rev().find(|message| message["role"] == "user").map_or("", content_text);
        let expected = messages[split..].iter().filter(|message| message["role"] == "assistant").cloned().collect();
        Ok(Prompt { ids, text: rendered.text, user: user.into(), expected, tools: tools.to_vec(), origin })
    }

    fn chat_example(
        &self,
        messages: &[Value],
        tools: &[Value],
        prompt_messages: Option<usize>,
        loss: LossOn,
    ) -> Result<(Vec<u32>, Vec<bool>)> {
        let mark = self.control.choose_mark(&[messages, tools])?;
        let encode = |messages: &[Value], generate: bool| -> Result<Vec<u32>> {
            self.encode(&self.render(mark, messages, tools, generate)?, false)
        };
        let full = encode(messages, false)?;
        let end_of = |count: usize| match count == messages.len() {
            true => Ok(full.len()),
            false => encode(&messages[..count], false).map(|ids| common_prefix(&ids, &full)),
        };
        let mut scored = vec![loss == LossOn::All; full.len()];
        match loss {
            LossOn::All => {}
            LossOn::Completion => {
                let (start, end) = match prompt_messages {
                    Some(count) => (count, messages.len()),
                    None => last_answer(messages).ok_or_else(nothing_to_score)?,
                };
                if start == 0 {
                    bail!("the row starts with the assistant, so that there is no prompt before the completion");
                }
                let first = common_prefix(&encode(&messages[..start], true)?, &full);
                let last = end_of(end)?;
                scored[first..last.max(first)].fill(true);
            }
            LossOn::Assistant => {
                let answers = (0..messages.len()).filter(|i| messages[*i]["role"] == "assistant");
                for i in answers {
                    let first = common_prefix(&encode(&with_other_answer(messages, i), false)?, &full);
                    let last = end_of(i + 1)?;
                    scored[first..last.max(first)].fill(true);
                }
            }
        }
        if !scored.iter().skip(1).any(|scored| *scored) {
            return Err(nothing_to_score());
        }
        Ok((full, scored))
    }

    /// As TRL: bos by the tokenizer, eos appended, the completion from where the ids of the prompt end or diverge.
    fn text_example(&self, prompt: Option<&str>, text: &str, loss: LossOn) -> Result<(Vec<u32>, Vec<bool>)> {
        let eos = self.eos.as_deref().filter(|eos| !text.ends_with(eos)).unwrap_or("");
        let full = self.encode_bare(&format!("{}{text}{eos}", prompt.unwrap_or("")))?;
        let first = match (loss, prompt) {
            (LossOn::All, _) => 0,
            (LossOn::Completion, Some(prompt)) => common_prefix(&self.encode_bare(prompt)?, &full),
            (LossOn::Completion, None) => {
                return Err(err!("the row is plain text: it has no completion to score")
                    .hint("leave out `--completion-only-loss`, or give rows with `prompt` and `completion`"));
            }
            (LossOn::Assistant, _) => {
                return Err(err!("the row is plain text: it has no assistant messages to score")
                    .hint("leave out `--assistant-only-loss`, or give rows with `messages`"));
            }
        };
        let scored = (0..full.len()).map(|i| i >= first).collect();
        Ok((full, scored))
    }

    fn render(&self, mark: char, messages: &[Value], tools: &[Value], generate: bool) -> Result<Rendered> {
        let marked = |values: &[Value]| values.iter().map(|value| self.control.mark(value, mark)).collect::<Vec<_>>();
        let text = self.template.render(&marked(messages), &marked(tools), generate)?;
        Ok(self.control.unmark(&text, mark))
    }

    /// A text that is no chat: the tokenizer adds its bos, unless the text has one.
    fn encode_bare(&self, text: &str) -> Result<Vec<u32>> {
        let has_bos = self.bos.as_deref().is_some_and(|bos| text.starts_with(bos));
        self.encode(&Rendered { text: text.into(), cuts: Vec::new() }, !has_bos)
    }

    fn encode(&self, rendered: &Rendered, add_special_tokens: bool) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let mut start = 0;
        for end in rendered.cuts.iter().copied().chain([rendered.text.len()]) {
            let piece = self.tokenizer.encode_fast(&rendered.text[start..end], add_special_tokens && start == 0);
            ids.extend(piece.map_err(|error| err!("the tokenizer refuses the text: {error}"))?.get_ids());
            start = end;
        }
        match ids.iter().find(|id| self.model_vocab.is_some_and(|size| **id as usize >= size)) {
            Some(id) => Err(err!("the token {id} `{}` is not in the model's vocabulary", self.token_text(*id))
                .hint("the tokenizer does not belong to the model, or the text holds an image token")),
            None => Ok(ids),
        }
    }
}

/// The last assistant message, with those directly before it, as a range of `messages`.
fn last_answer(messages: &[Value]) -> Option<(usize, usize)> {
    let is_assistant = |message: &Value| message["role"] == "assistant";
    let end = messages.iter().rposition(is_assistant)? + 1;
    let start = messages[..end].iter().rposition(|message| !is_assistant(message)).map_or(0, |before| before + 1);
    Some((start, end))
}

/// `messages` up to number `i` with another answer in its place: rendered, it agrees with the whole chat exactly up to
/// where the answer starts.
fn with_other_answer(messages: &[Value], i: usize) -> Vec<Value> {
    let other = if content_text(&messages[i]).trim_start().starts_with('x') { "y" } else { "x" };
    let mut out = messages[..i].to_vec();
    out.push(json!({"role": "assistant", "content": other}));
    out
}

/// The content of a message, or its first text part.
fn content_text(message: &Value) -> &str {
    let content = &message["content"];
    content.as_str().or(content[0]["text"].as_str()).unwrap_or("")
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn nothing_to_score() -> crate::error::Error {
    err!("the row has no assistant message to score")
        .hint("leave out `--completion-only-loss` and `--assistant-only-loss`, or remove the row")
}
