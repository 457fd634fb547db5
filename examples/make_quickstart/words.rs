//! The words that fill a template's blanks: from the lists, or made up, so that they can be copied but not known.

use std::collections::{BTreeMap, HashSet};

use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

/// Letters before the first and after the last of a word.
const EDGE: char = ' ';

/// Blanks and what can stand in them.
pub struct Words {
    /// Name of a blank to the phrases that can fill it.
    lists: BTreeMap<String, Vec<String>>,
    /// Two letters to the letters that follow them in the lists, as often as they do.
    followers: BTreeMap<[char; 2], Vec<char>>,
}

impl Words {
    /// Words for the blanks `lists`; made-up words are spelled like those of the lists.
    pub fn new(lists: BTreeMap<String, Vec<String>>) -> Self {
        let mut followers: BTreeMap<[char; 2], Vec<char>> = BTreeMap::new();
        for word in lists.values().flatten().flat_map(|phrase| phrase.split(|c: char| !c.is_ascii_alphabetic())) {
            if word.len() < 4 {
                continue;
            }
            let mut last = [EDGE; 2];
            for letter in word.to_ascii_lowercase().chars().chain([EDGE]) {
                followers.entry(last).or_default().push(letter);
                last = [last[1], letter];
            }
        }
        Self { lists, followers }
    }

    /// A phrase for `blank` that is not in `used` if it has another one.
    pub fn draw(&self, blank: &str, used: &HashSet<String>, rng: &mut ChaCha8Rng) -> String {
        let choices = self.lists.get(blank).unwrap_or_else(|| panic!("no words for the blank `{blank}`"));
        let drawn = (0..8).map(|_| choices.choose(rng).expect("a blank has words")).find(|word| !used.contains(*word));
        drawn.unwrap_or(&choices[0]).clone()
    }

    /// `phrase` with made-up words and numbers in place of most of its own, at least one: `Anna Keller` to `Anna Merton`.
    /// Words in lower case of three letters or less stay (`of`, `the`).
    pub fn disguise(&self, phrase: &str, rng: &mut ChaCha8Rng) -> String {
        let words: Vec<&str> = phrase.split(' ').collect();
        let one = rng.random_range(0..words.len());
        let disguised = words.iter().enumerate().map(|(i, word)| {
            if i == one || rng.random_bool(0.7) { self.in_place_of(word, rng) } else { word.to_string() }
        });
        disguised.collect::<Vec<_>>().join(" ")
    }

    /// A made-up word or number of the kind of `word`.
    fn in_place_of(&self, word: &str, rng: &mut ChaCha8Rng) -> String {
        if word.bytes().all(|b| b.is_ascii_digit()) {
            let digits = rng.random_range(1..=4);
            return rng.random_range(1..10_i32.pow(digits)).to_string();
        }
        let small = word.len() <= 3 && word.bytes().all(|b| b.is_ascii_lowercase());
        if small || !word.bytes().all(|b| b.is_ascii_alphabetic()) {
            return word.to_string();
        }
        let mut made = self.made_up(rng);
        if word.starts_with(|c: char| c.is_ascii_uppercase()) {
            made[..1].make_ascii_uppercase();
        }
        made
    }

    /// A word of 3 to 10 letters that the lists' spelling allows, lower case.
    pub fn made_up(&self, rng: &mut ChaCha8Rng) -> String {
        loop {
            let (mut word, mut last) = (String::new(), [EDGE; 2]);
            loop {
                let letter = *self.followers[&last].choose(rng).expect("letters follow");
                if letter == EDGE {
                    break;
                }
                word.push(letter);
                last = [last[1], letter];
            }
            if (3..=10).contains(&word.len()) {
                return word;
            }
        }
    }
}
