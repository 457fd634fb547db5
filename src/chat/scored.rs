//! Which tokens of a chat are its answers: found from what the template makes of parts of the chat.
//!
//! An answer starts where the chat up to it, with another answer in its place, parts from the whole, and ends where the chat
//! that ends with it does. Rendering that for each answer of a long chat would be quadratic. So a long chat is gone through
//! in windows, short chats of their own, and their tokens are held against those of the whole: where they differ, because
//! the template looks further than a window, the slow way is taken.

use std::ops::Range;

use serde_json::{Value, json};

use crate::error::Result;

/// Messages that a window adds.
const WINDOW: usize = 16;

/// The token ranges of the assistant's messages; `full` is the whole chat, `encode` gives the ids of a chat.
///
/// # Errors
/// Those of `encode`.
pub fn answer_spans<E>(messages: &[Value], full: &[u32], encode: E) -> Result<Vec<Range<usize>>>
where
    E: Fn(&[Value]) -> Result<Vec<u32>>,
{
    if messages.len() > 2 * WINDOW
        && let Ok(Some(spans)) = windowed_spans(messages, full, &encode)
    {
        return Ok(spans);
    }
    spans_within(messages, 0..messages.len(), full, &encode)
}

/// The spans of the answers among `messages[range]`.
fn spans_within<E>(messages: &[Value], range: Range<usize>, full: &[u32], encode: &E) -> Result<Vec<Range<usize>>>
where
    E: Fn(&[Value]) -> Result<Vec<u32>>,
{
    let mut spans = Vec::new();
    for i in range.filter(|i| messages[*i]["role"] == "assistant") {
        let first = common_prefix(&encode(&with_other_answer(messages, i))?, full);
        let last = end_of(messages, i + 1, full, encode)?;
        spans.push(first..last.max(first));
    }
    Ok(spans)
}

/// Where the first `count` messages end in `full`, which is all of them.
pub fn end_of<E>(messages: &[Value], count: usize, full: &[u32], encode: &E) -> Result<usize>
where
    E: Fn(&[Value]) -> Result<Vec<u32>>,
{
    match count {
        0 => Ok(0),
        _ if count == messages.len() => Ok(full.len()),
        _ => Ok(common_prefix(&encode(&messages[..count])?, full)),
    }
}

/// The spans, or None where the windows together are not the whole.
fn windowed_spans<E>(messages: &[Value], full: &[u32], encode: &E) -> Result<Option<Vec<Range<usize>>>>
where
    E: Fn(&[Value]) -> Result<Vec<u32>>,
{
    let lead = usize::from(matches!(messages[0]["role"].as_str(), Some("system" | "developer")));
    let mut spans = Vec::new();
    // Tokens of the messages that are done.
    let mut done = 0;
    for start in (0..messages.len()).step_by(WINDOW) {
        let end = (start + WINDOW).min(messages.len());
        let from = window_start(messages, lead, start);
        // The message behind the window shows how the last one goes on.
        let window = [&messages[..lead.min(from)], &messages[from..(end + 1).min(messages.len())]].concat();
        let local = |i: usize| i - from + lead.min(from);
        let ids = encode(&window)?;
        let begins = end_of(&window, if start == 0 { 0 } else { local(start) }, &ids, encode)?;
        let ends = end_of(&window, local(end), &ids, encode)?;
        if ends < begins || full.get(done..done + ends - begins) != Some(&ids[begins..ends]) {
            return Ok(None);
        }
        for span in spans_within(&window, local(start)..local(end), &ids, encode)? {
            if span.start < begins || span.end > ends {
                return Ok(None);
            }
            spans.push(span.start - begins + done..span.end - begins + done);
        }
        done += ends - begins;
    }
    Ok((done == full.len()).then_some(spans))
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

/// The content of a message, or its first text part.
pub fn content_text(message: &Value) -> &str {
    let content = &message["content"];
    content.as_str().or(content[0]["text"].as_str()).unwrap_or("")
}

/// How many ids the two have in common at their beginning.
pub fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
