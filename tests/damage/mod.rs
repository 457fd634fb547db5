//! Valid inputs damaged at random, and bytes that never were valid: what every reader of strangers' files must survive.
//!
//! The valid ones are the seeds of the fuzz targets (`fuzz/seeds`), which do the same a million times.

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{RngSeed, TestRunner};

/// The files of `fuzz/seeds/TARGET`.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{target} has no seeds");
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Calls `check` with each of `seeds`, and with `cases` inputs made from them, the same ones every time.
pub fn each_damaged(seeds: Vec<Vec<u8>>, cases: u32, check: impl Fn(&[u8])) {
    seeds.iter().for_each(|seed| check(seed));
    let config = ProptestConfig { cases, rng_seed: RngSeed::Fixed(7), failure_persistence: None, ..Default::default() };
    let run = |bytes: Vec<u8>| {
        check(&bytes);
        Ok(())
    };
    TestRunner::new(config).run(&damaged(seeds), run).unwrap();
}

/// One change of an input.
#[derive(Clone, Debug)]
enum Damage {
    Byte(Index, u8),
    Remove(Index, Index),
    Repeat(Index, Index),
    Insert(Index, &'static str),
    Copy(Index, Index, Index),
}

/// What decides much in one format or another.
const PIECES: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ",",
    ":",
    "\\",
    "\n",
    "null",
    "{}",
    "[]",
    "-1",
    "1e999",
    "18446744073709551616",
    "{{",
    "%}",
    "<escape>",
    "<start_function_call>",
    "\u{1f}",
    "\0\0\0\0\0\0\0\0",
    "é",
    "= ",
    "'",
];

fn damaged(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let index = any::<Index>;
    let change = prop_oneof![
        (index(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        (index(), index()).prop_map(|(from, to)| Damage::Remove(from, to)),
        (index(), index()).prop_map(|(from, to)| Damage::Repeat(from, to)),
        (index(), prop::sample::select(&PIECES[..])).prop_map(|(at, piece)| Damage::Insert(at, piece)),
        (index(), index(), index()).prop_map(|(from, to, at)| Damage::Copy(from, to, at)),
    ];
    let changed = (prop::sample::select(seeds), prop::collection::vec(change, 1..6))
        .prop_map(|(seed, changes)| changes.iter().fold(seed, |bytes, change| change.apply(bytes)));
    prop_oneof![9 => changed, 1 => prop::collection::vec(any::<u8>(), 0..300)]
}

impl Damage {
    fn apply(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let place = |index: &Index, length: usize| index.index(length + 1);
        // At most 64 bytes, so that the rest of the input stays what it was.
        let range = |from: &Index, to: &Index| {
            let from = place(from, bytes.len());
            from..(from + place(to, 64)).min(bytes.len())
        };
        match self {
            Self::Byte(at, byte) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Self::Byte(_, byte) => bytes.push(*byte),
            Self::Remove(from, to) => drop(bytes.drain(range(from, to))),
            Self::Repeat(from, to) => {
                let range = range(from, to);
                let (at, piece) = (range.end, bytes[range].to_vec());
                bytes.splice(at..at, piece);
            }
            Self::Insert(at, piece) => {
                let at = place(at, bytes.len());
                bytes.splice(at..at, piece.bytes());
            }
            Self::Copy(from, to, at) => {
                let piece = bytes[range(from, to)].to_vec();
                let at = place(at, bytes.len());
                bytes.splice(at..at, piece);
            }
        }
        bytes
    }
}
