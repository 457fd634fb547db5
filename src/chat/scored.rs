//! Which tokens of a chat are its answers: found from what the template makes of parts of the chat.
//!
//! An answer starts where the chat up to it, with another answer in its place, parts from the whole, and ends where the chat
//! that ends with it does. Texts are compared first; the tokens are then those from the last control token before that place
//! on, because no other token reaches over a control token.
//!
//! Rendering half the chat for each answer would be quadratic. So a long chat is gone through in windows, short chats of their
//! own, whose texts are held against that of the whole: where they differ, because the template looks further than a
//! window, the slow way is taken.

use std::ops::Range;

use serde_json::{Value, json};

use super::control::Rendered;
use crate::bail;
use crate::batch::growth::common_prefix;
use crate::error::Result;

/// Messages that a window adds.
const WINDOW: usize = 8;

/// How a chat becomes text, with a generation prompt or without, and how that becomes tokens, from a byte on.
pub struct Steps<'a> {
    pub render: &'a dyn Fn(&[Value], bool) -> Result<Rendered>,
    pub encode: &'a dyn Fn(&Rendered, usize) -> Result<Vec<u32>>,
}

/// A whole chat, in which answers are looked for.
pub struct Chat<'a> {
    messages: &'a [Value],
    steps: Steps<'a>,
    rendered: Rendered,
    pub ids: Vec<u32>,
    /// For each control token of the template, where it is in `ids`; none where tokens and text do not agree.
    places: Vec<usize>,
}

/// Some messages of the chat, rendered: text byte `i` is byte `i + shift` of the whole.
struct Part<'a> {
    messages: &'a [Value],
    rendered: &'a Rendered,
    shift: isize,
}

impl<'a> Chat<'a> {
    /// `is_control`: whether an id is that of a control token.
    ///
    /// # Errors
    /// Those of the steps.
    pub fn new(messages: &'a [Value], steps: Steps<'a>, is_control: impl Fn(u32) -> bool) -> Result<Self> {
        let rendered = (steps.render)(messages, false)?;
        let ids = (steps.encode)(&rendered, 0)?;
        let mut places: Vec<usize> = (0..ids.len()).filter(|t| is_control(ids[*t])).collect();
        if places.len() != rendered.tokens.len() {
            places.clear();
        }
        Ok(Self { messages, steps, rendered, ids, places })
    }

    /// The tokens of `messages[answer]`, which follow a prompt.
    ///
    /// # Errors
    /// Those of the steps.
    pub fn completion(&self, answer: Range<usize>) -> Result<Range<usize>> {
        let whole = self.whole();
        let first = self.token(&whole, &(self.steps.render)(&self.messages[..answer.start], true)?)?;
        let last = self.end_of(&whole, answer.end)?;
        Ok(first..last.max(first))
    }

    /// The tokens of every message of the assistant.
    ///
    /// # Errors
    /// Those of the steps.
    pub fn answers(&self) -> Result<Vec<Range<usize>>> {
        if self.messages.len() > WINDOW
            && !self.places.is_empty()
            && let Ok(Some(spans)) = self.answers_by_windows()
        {
            return Ok(spans);
        }
        self.answers_in(&self.whole(), 0..self.messages.len())
    }

    fn whole(&self) -> Part<'_> {
        Part { messages: self.messages, rendered: &self.rendered, shift: 0 }
    }

    /// The tokens of the answers among `part.messages[range]`.
    fn answers_in(&self, part: &Part, range: Range<usize>) -> Result<Vec<Range<usize>>> {
        let mut spans = Vec::new();
        for i in range.filter(|i| part.messages[*i]["role"] == "assistant") {
            let other = (self.steps.render)(&with_other_answer(part.messages, i), false)?;
            let (first, last) = (self.token(part, &other)?, self.end_of(part, i + 1)?);
            spans.push(first..last.max(first));
        }
        Ok(spans)
    }

    /// The token behind the first `count` messages of `part`.
    fn end_of(&self, part: &Part, count: usize) -> Result<usize> {
        match count == self.messages.len() && part.messages.len() == count {
            true => Ok(self.ids.len()),
            false => self.token(part, &(self.steps.render)(&part.messages[..count], false)?),
        }
    }

    /// The first token in which the whole differs from `other`, which begins like `part`.
    fn token(&self, part: &Part, other: &Rendered) -> Result<usize> {
        let same = common_prefix(other.text.as_bytes(), part.rendered.text.as_bytes());
        let before = part.rendered.tokens.partition_point(|(_, end)| *end <= same);
        let start = before.checked_sub(1).map(|last| part.rendered.tokens[last].0);
        let place = start.and_then(|start| {
            let start_in_whole = start.checked_add_signed(part.shift)?;
            let number = self.rendered.tokens.binary_search_by_key(&start_in_whole, |(start, _)| *start).ok()?;
            Some((start, *self.places.get(number)?))
        });
        let (from, place) = match place {
            Some(place) => place,
            None if part.shift == 0 => (0, 0),
            None => bail!("internal: no control token before an answer"),
        };
        let ids = (self.steps.encode)(other, from)?;
        Ok(place + common_prefix(&ids, &self.ids[place..]))
    }

    /// The answers, or None where the windows together are not the whole.
    fn answers_by_windows(&self) -> Result<Option<Vec<Range<usize>>>> {
        let (all, count) = (self.messages, self.messages.len());
        let lead = usize::from(matches!(all[0]["role"].as_str(), Some("system" | "developer")));
        let mut spans = Vec::new();
        // Bytes of the messages that are done.
        let mut done = 0;
        for start in (0..count).step_by(WINDOW) {
            let end = (start + WINDOW).min(count);
            let from = window_start(all, lead, start);
            // The message behind the window shows how the last one goes on.
            let messages = [&all[..lead.min(from)], &all[from..(end + 1).min(count)]].concat();
            let local = |i: usize| i - from + lead.min(from);
            let rendered = (self.steps.render)(&messages, false)?;
            let text_end = |count: usize| match count {
                0 => Ok(0),
                _ if count == messages.len() => Ok(rendered.text.len()),
                _ => (self.steps.render)(&messages[..count], false)
                    .map(|part| common_prefix(part.text.as_bytes(), rendered.text.as_bytes())),
            };
            let begins = text_end(if start == 0 { 0 } else { local(start) })?;
            let ends = text_end(local(end))?;
            let here = rendered.text.as_bytes().get(begins..ends);
            if here.is_none() || here != self.rendered.text.as_bytes().get(done..done + ends - begins) {
                return Ok(None);
            }
            let part = Part { messages: &messages, rendered: &rendered, shift: done as isize - begins as isize };
            spans.extend(self.answers_in(&part, local(start)..local(end))?);
            done += ends - begins;
        }
        Ok((done == self.rendered.text.len()).then_some(spans))
    }
}

/// A message before `start` with which a chat may begin: the nearest of the user's, else two messages before.
fn window_start(messages: &[Value], lead: usize, start: usize) -> usize {
    if start == 0 {
        return 0;
    }
    let near = start.saturating_sub(WINDOW).max(lead);
    let user = messages[near..start].iter().rposition(|message| message["role"] == "user");
    user.map_or(start.saturating_sub(2).max(lead), |at| near + at)
}

/// `messages` up to number `i` with another answer in its place: rendered, it agrees with the whole chat exactly up to
/// where the answer starts.
fn with_other_answer(messages: &[Value], i: usize) -> Vec<Value> {
    let other = if content_text(&messages[i]).trim_start().starts_with('x') { "y" } else { "x" };
    let mut out = messages[..i].to_vec();
    out.push(json!({"role": "assistant", "content": other}));
    out
}

/// The last assistant message, with those directly before it, as a range of `messages`.
pub fn last_answer(messages: &[Value]) -> Option<Range<usize>> {
    let is_assistant = |message: &Value| message["role"] == "assistant";
    let end = messages.iter().rposition(is_assistant)? + 1;
    let start = messages[..end].iter().rposition(|message| !is_assistant(message)).map_or(0, |before| before + 1);
    Some(start..end)
}

/// Every answer of the assistant, each the messages that it gives in a row, as ranges of `messages`.
pub fn answers(messages: &[Value]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut rest = messages;
    while let Some(answer) = last_answer(rest) {
        rest = &messages[..answer.start];
        found.push(answer);
    }
    found.reverse();
    found
}

/// The content of a message, or its first text part.
pub fn content_text(message: &Value) -> &str {
    let content = &message["content"];
    content.as_str().or(content[0]["text"].as_str()).unwrap_or("")
}
