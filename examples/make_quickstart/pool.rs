//! The word lists: topics one can search, tools that act, and the words of both.

use std::collections::{BTreeMap, HashSet};

use engine::error::{Context, Result};
use serde::Deserialize;

use crate::words::Words;

const WORK: &str = include_str!("work.toml");
const WORLD: &str = include_str!("world.toml");
const ACTIONS: &str = include_str!("actions.toml");
const WORDS: &str = include_str!("words.toml");

/// Everything the chats are made of.
pub struct Pool {
    /// Topics of the workplace first, then topics of the world.
    pub topics: Vec<Topic>,
    pub actions: Vec<Action>,
    pub words: Words,
    /// The telling words of each row of the quickstart, which no request may repeat.
    held_out: Vec<HashSet<String>>,
    /// The telling words of the quickstart's queries that the lists do not have: no text may have them.
    unknown: HashSet<String>,
}

/// Where a topic belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Work,
    World,
}

/// Something one can ask a search tool about.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    pub nouns: Vec<String>,
    pub about: Vec<String>,
    pub things: Vec<String>,
    pub asks: Vec<String>,
    #[serde(skip, default = "work")]
    pub side: Side,
}

fn work() -> Side {
    Side::Work
}

/// A tool with its own parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    pub names: Vec<String>,
    pub about: Vec<String>,
    /// Name to `type: description`.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    pub asks: Vec<String>,
    /// First nouns of the topics whose search tools could do the same.
    #[serde(default)]
    pub near: Vec<String>,
}

#[derive(Deserialize)]
struct Topics {
    topic: Vec<Topic>,
}

#[derive(Deserialize)]
struct Actions {
    action: Vec<Action>,
}

#[derive(Deserialize)]
struct HeldOut {
    user_content: String,
    /// JSON.
    tool_arguments: String,
}

impl Pool {
    /// Reads the lists that are compiled in.
    pub fn load() -> Result<Self> {
        let mut topics = toml::from_str::<Topics>(WORK).context(|| "work.toml")?.topic;
        let mut world = toml::from_str::<Topics>(WORLD).context(|| "world.toml")?.topic;
        world.iter_mut().for_each(|topic| topic.side = Side::World);
        topics.append(&mut world);
        // A query is one stretch of the user's words, so that it can be copied.
        topics.iter_mut().for_each(|topic| topic.asks.retain(|ask| ask.matches('[').count() == 1));
        let actions = toml::from_str::<Actions>(ACTIONS).context(|| "actions.toml")?.action;
        let lists = toml::from_str(WORDS).context(|| "words.toml")?;
        let rows = [include_str!("../quickstart/train.jsonl"), include_str!("../quickstart/test.jsonl")]
            .iter()
            .flat_map(|text| text.lines())
            .map(|line| serde_json::from_str(line).context(|| "quickstart row"))
            .collect::<Result<Vec<HeldOut>>>()?;
        let known = telling_words(&[WORK, WORLD, ACTIONS, WORDS].concat());
        let mut unknown: HashSet<String> = rows.iter().flat_map(|row| telling_words(&row.tool_arguments)).collect();
        unknown.retain(|word| !known.contains(word) && word != "query");
        let held_out = rows.iter().map(|row| telling_words(&row.user_content)).collect();
        Ok(Self { topics, actions, words: Words::new(lists), held_out, unknown })
    }

    /// Whether `text` repeats three quarters of the telling words of a quickstart row, or a word that is to be unknown.
    pub fn resembles_held_out(&self, text: &str) -> bool {
        let words = telling_words(text);
        !self.unknown.is_disjoint(&words)
            || self.held_out.iter().any(|row| 4 * row.intersection(&words).count() >= 3 * row.len())
    }

    /// Topics of one side.
    pub fn side(&self, side: Side) -> Vec<usize> {
        (0..self.topics.len()).filter(|&i| self.topics[i].side == side).collect()
    }
}

/// Lower-case words of three letters or more without the commonest ones and without a plural's `s`.
fn telling_words(text: &str) -> HashSet<String> {
    const COMMON: [&str; 23] = [
        "what", "which", "when", "where", "who", "how", "does", "did", "the", "and", "for", "our", "this", "long",
        "should", "show", "will", "from", "there", "have", "are", "was", "find",
    ];
    text.to_lowercase()
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| word.len() > 2 && !COMMON.contains(word))
        .map(|word| word.trim_end_matches('s').to_string())
        .collect()
}
