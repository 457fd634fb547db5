//! Rows to token ids: training examples with their scored tokens, and prompts for generation.

use std::collections::HashSet;
use std::path::Path;
use std::sync::OnceLock;

use rayon::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::control::{ControlTokens, MARK_PAIRS, Marks, Rendered};
use super::functiongemma::tokens;
use super::scored::{Chat, Steps, answers, content_text, last_answer};
use super::template::{ChatTemplate, SpecialTokens, load_special_tokens};
use super::tokenizer_file::TokenizerFile;
use crate::batch::Example;
use crate::batch::growth::common_prefix;
use crate::data::rows::{Row, RowContent};
use crate::data::tools::tool_name;
use crate::error::{Context, Error, Result, printable};
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
    /// Of the tools that it declares.
    pub tool_names: Vec<String>,
    /// `file:line`.
    pub origin: String,
}

/// A checkpoint's tokenizer and chat template.
pub struct ChatTokenizer {
    tokenizer: TokenizerFile,
    template: ChatTemplate,
    special_tokens: SpecialTokens,
    /// The template with its control tokens between marks, for each pair of them that was needed.
    marked: [OnceLock<ChatTemplate>; MARK_PAIRS],
    control: ControlTokens,
    /// The ids of the control tokens, but for the unknown token: that is what ordinary text may become.
    control_ids: HashSet<u32>,
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
        let tokenizer = TokenizerFile::load(&path)?;
        let mut special_tokens = load_special_tokens(folder)?;
        for (name, text) in [("bos_token", tokens::BOS), ("eos_token", tokens::EOS), ("pad_token", tokens::PAD)] {
            if !special_tokens.contains_key(name) && tokenizer.id(text).is_some() {
                special_tokens.insert(name.into(), text.into());
            }
        }
        let added = tokenizer.added();
        let control = ControlTokens::new(added.iter().map(|(_, text, special)| (text.as_str(), *special)));
        let control = control.context(|| format!("cannot use `{}`", path.display()))?;
        let unknown = special_tokens.get("unk_token").map_or(tokens::UNKNOWN, String::as_str);
        let control_ids = added.iter().filter(|(_, text, _)| control.contains(text) && text != unknown);
        let control_ids = control_ids.map(|(id, ..)| *id).collect();
        let template = ChatTemplate::load(folder, special_tokens.clone())?;
        let marked = Default::default();
        let chat = Self { tokenizer, template, special_tokens, marked, control, control_ids, model_vocab: None };
        chat.marked_template(0)?;
        Ok(chat)
    }

    /// Refuses ids that the model's embedding (`vocab_size` of its config) does not hold.
    pub fn with_model_vocab(mut self, model_vocab: usize) -> Self {
        self.model_vocab = Some(model_vocab);
        self
    }

    /// With the chat template of a file in the place of the checkpoint's own.
    ///
    /// # Errors
    /// Names the file: it cannot be read, or does not compile.
    pub fn with_template(mut self, path: &Path) -> Result<Self> {
        self.template = ChatTemplate::read(path, self.special_tokens.clone())?;
        self.marked = Default::default();
        self.marked_template(0).context(|| format!("in `{}`", path.display()))?;
        Ok(self)
    }

    /// With another token in the place of the checkpoint's `eos_token`: it ends rows of plain text, and templates know it.
    ///
    /// # Errors
    /// A usage error: the tokenizer has no such token.
    pub fn with_eos_token(mut self, token: &str) -> Result<Self> {
        self.eos_id(token)?;
        self.special_tokens.insert("eos_token".into(), token.into());
        self.template = ChatTemplate::from_source(self.template.source(), self.special_tokens.clone())?;
        self.marked = Default::default();
        Ok(self)
    }

    /// The id of a token that is to end answers.
    ///
    /// # Errors
    /// As [`with_eos_token`](Self::with_eos_token).
    pub fn eos_id(&self, token: &str) -> Result<u32> {
        let unknown = || Error::usage(format!("`{}` is no token of the tokenizer", printable(token)));
        self.tokenizer.id(token).ok_or_else(|| {
            unknown().hint("`--eos-token` takes one token as the tokenizer spells it, such as `<end_of_turn>`")
        })
    }

    /// The chat template; its source belongs into the folder of a trained model.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// What the ids of a row follow from, beside the row: the tokenizer's file, the special tokens, the template.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.tokenizer.sha256());
        for text in self
            .special_tokens
            .iter()
            .flat_map(|(name, text)| [name, text])
            .map(String::as_str)
            .chain([self.template.source()])
        {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        hash.finalize().into()
    }

    /// Whether the model's embedding holds all of these ids.
    pub fn knows(&self, ids: &[u32]) -> bool {
        self.model_vocab.is_none_or(|size| ids.iter().all(|id| (*id as usize) < size))
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    /// The text of one token; empty for an id that the tokenizer does not have.
    pub fn token_text(&self, id: u32) -> String {
        self.decode(&[id])
    }

    /// The text of `ids`, control tokens included.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(ids)
    }

    /// The ids of a text in which control tokens are control tokens; nothing is added.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        self.encode(text, &[], false)
    }

    /// The prompt of a row: everything before its final assistant message(s).
    ///
    /// # Errors
    /// Names `file:line`: a template that raises, a row of plain text or one that starts with the assistant.
    pub fn prompt(&self, row: &Row) -> Result<Prompt> {
        self.read_prompt(row).context(|| format!("no prompt can be made from the row at `{}`", row.origin))
    }

    /// A prompt for each answer of the assistant in a row, with the true history before it. The prompts of a chat with several answers
    /// are told apart by their origin: `file:line, turn 2 of 3`.
    ///
    /// # Errors
    /// As [`Self::prompt`].
    pub fn prompts(&self, row: &Row) -> Result<Vec<Prompt>> {
        let RowContent::Chat { messages, tools, prompt_messages: None } = &row.content else {
            return self.prompt(row).map(|prompt| vec![prompt]);
        };
        let answers: Vec<_> = answers(messages).into_iter().filter(|answer| answer.start > 0).collect();
        if answers.len() < 2 && messages.last().is_none_or(|message| message["role"] != "user") {
            return self.prompt(row).map(|prompt| vec![prompt]);
        }
        let count = answers.len();
        let prompts = answers.into_iter().enumerate().map(|(i, answer)| {
            let turn = if count > 1 { format!(", turn {} of {count}", i + 1) } else { String::new() };
            let origin = format!("{}{turn}", row.origin);
            let place = format!("no prompt can be made from the row at `{origin}`");
            self.chat_prompt(&messages[..answer.end], tools, Some(answer.start), origin).context(|| place)
        });
        prompts.collect()
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
                Ok(Prompt { ids, text, user, expected, tool_names: Vec::new(), origin })
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
            None => last_answer(messages).map_or(messages.len(), |answer| answer.start),
        };
        if split == 0 {
            bail!("the row starts with the assistant, so that there is no prompt");
        }
        let marks = self.control.choose_marks(&[messages, tools])?;
        let rendered = self.render(marks, &messages[..split], tools, true)?;
        let ids = self.encode_chat(&rendered, 0)?;
        let user = messages[..split].iter().rev().find(|message| message["role"] == "user").map_or("", content_text);
        let expected = messages[split..].iter().filter(|message| message["role"] == "assistant").cloned().collect();
        let tool_names = tools.iter().filter_map(tool_name).map(str::to_owned).collect();
        Ok(Prompt { ids, text: rendered.text, user: user.into(), expected, tool_names, origin })
    }

    fn chat_example(
        &self,
        messages: &[Value],
        tools: &[Value],
        prompt_messages: Option<usize>,
        loss: LossOn,
    ) -> Result<(Vec<u32>, Vec<bool>)> {
        let marks = self.control.choose_marks(&[messages, tools])?;
        let render = |messages: &[Value], generate: bool| self.render(marks, messages, tools, generate);
        let steps = Steps { render: &render, encode: &|rendered, from| self.encode_chat(rendered, from) };
        let chat = Chat::new(messages, steps, |id| self.control_ids.contains(&id))?;
        let spans = match loss {
            LossOn::All => std::iter::once(0..chat.ids.len()).collect(),
            LossOn::Completion => {
                let answer = match prompt_messages {
                    Some(count) => count..messages.len(),
                    None => last_answer(messages).ok_or_else(nothing_to_score)?,
                };
                if answer.start == 0 {
                    bail!("the row starts with the assistant, so that there is no prompt before the completion");
                }
                vec![chat.completion(answer)?]
            }
            LossOn::Assistant => chat.answers()?,
        };
        let mut scored = vec![false; chat.ids.len()];
        spans.into_iter().for_each(|span| scored[span].fill(true));
        if !scored.iter().skip(1).any(|scored| *scored) {
            return Err(nothing_to_score());
        }
        Ok((chat.ids, scored))
    }

    /// As TRL: bos by the tokenizer, eos appended, the completion from where the ids of the prompt end or diverge.
    fn text_example(&self, prompt: Option<&str>, text: &str, loss: LossOn) -> Result<(Vec<u32>, Vec<bool>)> {
        let eos = self.special("eos_token").filter(|eos| !text.ends_with(eos)).unwrap_or("");
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

    fn special(&self, name: &str) -> Option<&str> {
        self.special_tokens.get(name).map(String::as_str)
    }

    /// The template with its control tokens between the marks of pair `number`.
    fn marked_template(&self, number: usize) -> Result<&ChatTemplate> {
        if let Some(template) = self.marked[number].get() {
            return Ok(template);
        }
        let marks = Marks::pair(number);
        let special = self.special_tokens.iter();
        let special = special.map(|(name, text)| (name.clone(), self.control.mark_text(text, marks))).collect();
        let source = self.control.mark_source(self.template.source(), marks);
        let template = ChatTemplate::from_source(&source, special)?;
        Ok(self.marked[number].get_or_init(|| template))
    }

    fn render(&self, marks: usize, messages: &[Value], tools: &[Value], generate: bool) -> Result<Rendered> {
        let text = self.marked_template(marks)?.render(messages, tools, generate)?;
        Ok(self.control.unmark(&text, Marks::pair(marks)))
    }

    /// A text that is no chat: the tokenizer adds its bos, unless the text has one.
    fn encode_bare(&self, text: &str) -> Result<Vec<u32>> {
        let has_bos = self.special("bos_token").is_some_and(|bos| text.starts_with(bos));
        self.encode(text, &[], !has_bos)
    }

    /// The ids of a chat from byte `from` on. Its control tokens are those of the template and no others.
    fn encode_chat(&self, rendered: &Rendered, from: usize) -> Result<Vec<u32>> {
        let cuts = &rendered.cuts[rendered.cuts.partition_point(|cut| *cut <= from)..];
        let cuts: Vec<usize> = cuts.iter().map(|cut| cut - from).collect();
        let ids = self.encode(&rendered.text[from..], &cuts, false)?;
        let tokens = &rendered.tokens[rendered.tokens.partition_point(|(start, _)| *start < from)..];
        let mut tokens = tokens.iter().map(|(start, end)| &rendered.text[*start..*end]);
        let mut written = |id: u32| tokens.any(|token| self.tokenizer.id(token) == Some(id));
        let mut control = ids.iter().copied().filter(|id| self.control_ids.contains(id));
        match control.find(|id| !written(*id)) {
            Some(id) => Err(err!("the text would become the control token `{}`", self.token_text(id))
                .hint("the tokenizer has no other way to write it: change the text")),
            None => Ok(ids),
        }
    }

    /// The ids of a text that is cut at the offsets `cuts`.
    fn encode(&self, text: &str, cuts: &[usize], add_special_tokens: bool) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let mut start = 0;
        for end in cuts.iter().copied().chain([text.len()]) {
            ids.extend(self.tokenizer.encode(&text[start..end], add_special_tokens && start == 0)?);
            start = end;
        }
        match ids.iter().find(|id| self.model_vocab.is_some_and(|size| **id as usize >= size)) {
            Some(id) => Err(err!("the token {id} `{}` is not in the model's vocabulary", self.token_text(*id))
                .hint("the tokenizer does not belong to the model, or the text holds an image token")),
            None => Ok(ids),
        }
    }
}

fn nothing_to_score() -> crate::error::Error {
    err!("the row has no assistant message to score")
        .hint("leave out `--completion-only-loss` and `--assistant-only-loss`, or remove the row")
}
