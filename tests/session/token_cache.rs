//! Tokenized rows that are kept for the next start: the same to the bit, named after all that they follow from, never believed when damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use engine::batch::Example;
use engine::chat::LossOn;
use engine::data::{Origin, Overlong, Row, RowOptions};
use engine::session::check::Tokenized;
use engine::session::{Checkpoint, ExampleOptions, Examples, TokenCache};
use serde_json::{Value, json};

const QUICKSTART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quickstart");

fn checkpoint() -> Checkpoint {
    Checkpoint::open(&format!("{QUICKSTART}/model")).unwrap()
}

/// That keeps whatever is tokenized.
fn cache(folder: &Path) -> TokenCache {
    TokenCache { patience: Duration::ZERO, ..TokenCache::in_folder(folder.join("engine/tokens")) }
}

fn row(value: Value, line: usize) -> Row {
    Row::from_json(value, Origin::new("rows.jsonl", line), &RowOptions::default()).unwrap()
}

fn chat(arguments: &str, description: &str) -> Value {
    let tool = json!({"type": "function", "function": {"name": "f", "description": description, "parameters": {"type": "object", "properties": {}}}});
    let arguments: Value = serde_json::from_str(arguments).unwrap();
    let call = json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]});
    json!({"messages": [{"role": "user", "content": "call it"}, call], "tools": [tool]})
}

/// Rows of several forms, of lengths that end anywhere in a byte of bits.
fn rows() -> Vec<Row> {
    let mut rows: Vec<Value> =
        (0..20).map(|n| json!({"prompt": "a".repeat(n + 1), "completion": "b c".repeat(n % 7 + 1)})).collect();
    rows.extend([chat(r#"{"a": 1, "b": 2}"#, "d"), chat("{}", "d"), chat("{}", "e"), json!({"text": "plain"})]);
    rows.into_iter().zip(1..).map(|(value, line)| row(value, line)).collect()
}

/// The examples, how many rows were tokenized, and what was warned of.
fn examples(rows: &[Row], options: &ExampleOptions, cache: &TokenCache) -> (Vec<Example>, usize, Vec<String>) {
    let tokenized = AtomicUsize::new(0);
    let count = || {
        tokenized.fetch_add(1, Ordering::Relaxed);
    };
    let found = Examples::cached(&checkpoint(), rows, options, Some(cache), count).unwrap();
    (found.examples, tokenized.into_inner(), found.warnings)
}

fn files(cache: &TokenCache) -> Vec<PathBuf> {
    let Ok(folder) = fs::read_dir(&cache.folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = folder.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn the_second_start_tokenizes_nothing_and_has_the_same_examples() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(folder.path());
    let options = ExampleOptions::default();
    let first = examples(&rows(), &options, &cache);
    assert_eq!((first.1, first.2.len(), files(&cache).len()), (24, 0, 1));
    let second = examples(&rows(), &options, &cache);
    assert_eq!((second.1, second.2.len()), (0, 0));
    assert_eq!(second.0, first.0);
    assert_eq!(first.0, Examples::new(&checkpoint(), &rows(), &options).unwrap().examples);
    // Limits on length are applied to what was kept.
    let cut = ExampleOptions { max_length: 9, overlong: Overlong::Truncate, ..options };
    assert_eq!(examples(&rows(), &cut, &cache).0, Examples::new(&checkpoint(), &rows(), &cut).unwrap().examples);
    // `engine check` has no other tokens than `engine train`.
    let check = Tokenized::new(&rows(), &checkpoint().tokenizer, &options, Some(&cache), || panic!("it tokenizes"));
    let lengths = first.0.iter().map(|example| example.ids.len());
    assert_eq!((check.lengths.quantile(1.0), check.warnings.len()), (lengths.max().unwrap(), 0));
    assert_eq!(files(&cache).len(), 1);
}

#[test]
fn rows_of_the_same_contents_keep_their_own_places() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(folder.path());
    examples(&rows(), &ExampleOptions::default(), &cache);
    let moved: Vec<Row> =
        rows().into_iter().map(|row| Row { origin: Origin::new("other.jsonl", row.origin.line), ..row }).collect();
    let (examples, tokenized, _) = examples(&moved, &ExampleOptions::default(), &cache);
    assert_eq!((tokenized, &*examples[3].origin), (0, "other.jsonl:4"));
}

#[test]
fn all_that_tokens_follow_from_is_in_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(folder.path());
    let plain = checkpoint().tokenizer;
    let name = |rows: &[Row]| cache.entry(&plain, rows, None).unwrap().path();
    let one = |value: Value| name(&[row(value, 1)]);
    let mut names = vec![
        name(&rows()),
        name(&rows()[1..]),
        name(&rows().into_iter().rev().collect::<Vec<_>>()),
        cache.entry(&plain, &rows(), Some(LossOn::All)).unwrap().path(),
        cache.entry(&plain, &rows(), Some(LossOn::Completion)).unwrap().path(),
        one(chat(r#"{"a": 1, "b": 2}"#, "d")),
        // The template writes arguments in their order.
        one(chat(r#"{"b": 2, "a": 1}"#, "d")),
        one(chat(r#"{"a": 1.0, "b": 2}"#, "d")),
        one(chat(r#"{"a": 1, "b": 2}"#, "e")),
        one(json!({"text": "ab"})),
        one(json!({"prompt": "a", "completion": "b"})),
        one(json!({"prompt": "", "completion": "ab"})),
    ];
    let template = folder.path().join("t.jinja");
    fs::write(&template, "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}").unwrap();
    let other = checkpoint().with_chat_template(&template).unwrap().tokenizer;
    names.push(cache.entry(&other, &rows(), None).unwrap().path());
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
    assert_eq!(name(&rows()), name(&rows()));
    // What the date is part of is not kept.
    fs::write(&template, "{{ strftime_now('%Y') }}").unwrap();
    let dated = checkpoint().with_chat_template(&template).unwrap().tokenizer;
    assert!(cache.entry(&dated, &rows(), None).is_none());
}

#[test]
fn a_damaged_file_is_warned_of_and_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(folder.path());
    let options = ExampleOptions::default();
    let good = examples(&rows(), &options, &cache).0;
    let [file] = &files(&cache)[..] else { panic!("one file is expected") };
    let bytes = fs::read(file).unwrap();
    let tokenizer = checkpoint().tokenizer;
    let entry = cache.entry(&tokenizer, &rows(), None).unwrap();
    let all = rows();
    // Each byte changed, and the file cut short anywhere.
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x41;
        for damaged in [&changed[..], &bytes[..at]] {
            fs::write(file, damaged).unwrap();
            assert!(entry.read(&all, &tokenizer).is_err(), "byte {at} of {}", bytes.len());
        }
    }
    for damaged in [&b""[..], &bytes[..bytes.len() / 2], &[&bytes[..], b"more"].concat()] {
        fs::write(file, damaged).unwrap();
        let (found, tokenized, warnings) = examples(&rows(), &options, &cache);
        assert_eq!((found, tokenized), (good.clone(), 24));
        assert!(warnings.len() == 1 && warnings[0].contains("is damaged"), "{warnings:?}");
        assert!(warnings[0].contains(file.to_str().unwrap()), "{warnings:?}");
        assert!(fs::read(file).unwrap() == bytes);
    }
}

#[test]
fn what_is_quick_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = TokenCache { patience: Duration::from_secs(3600), ..cache(folder.path()) };
    examples(&rows(), &ExampleOptions::default(), &cache);
    assert!(!cache.folder.exists());
}

#[test]
fn the_longest_unused_go_when_there_is_too_much() {
    let folder = tempfile::tempdir().unwrap();
    let roomy = cache(folder.path());
    let options = ExampleOptions::default();
    let parts: Vec<Vec<Row>> = (0..3).map(|i| rows()[i..i + 10].to_vec()).collect();
    let path = |rows: &Vec<Row>| roomy.entry(&checkpoint().tokenizer, rows, None).unwrap().path();
    let age = |rows: &Vec<Row>, hours: u64| {
        let then = SystemTime::now() - Duration::from_secs(3600 * hours);
        fs::File::options().append(true).open(path(rows)).unwrap().set_modified(then).unwrap();
    };
    for (part, hours) in parts[..2].iter().zip([9, 5]) {
        examples(part, &options, &roomy);
        age(part, hours);
    }
    // The older one is used again.
    assert_eq!(examples(&parts[0], &options, &roomy).1, 0);
    let size = |rows: &Vec<Row>| fs::metadata(path(rows)).unwrap().len();
    let tight = TokenCache { most_bytes: size(&parts[0]) + size(&parts[1]) + 256, ..roomy.clone() };
    examples(&parts[2], &options, &tight);
    assert!(path(&parts[0]).exists() && !path(&parts[1]).exists() && path(&parts[2]).exists());
    // What is larger than all of it is not kept, and throws nothing out that could stay.
    let small = TokenCache { most_bytes: 100, ..roomy.clone() };
    let (_, tokenized, warnings) = examples(&rows(), &options, &small);
    assert_eq!((tokenized, warnings.len()), (24, 0));
    assert!(!path(&rows()).exists());
}

#[test]
fn a_folder_that_cannot_be_written_to_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(folder.path());
    fs::write(folder.path().join("engine"), "in the way").unwrap();
    let (found, tokenized, warnings) = examples(&rows(), &ExampleOptions::default(), &cache);
    assert_eq!((found.len(), tokenized), (24, 24));
    assert!(warnings.len() == 1 && warnings[0].contains("engine/tokens"), "{warnings:?}");
}

#[test]
fn tokens_that_the_model_does_not_have_are_tokenized_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(folder.path());
    let rows = rows();
    examples(&rows, &ExampleOptions::default(), &cache);
    let small = checkpoint().tokenizer.with_model_vocab(10);
    assert!(cache.entry(&small, &rows, None).unwrap().read(&rows, &small).unwrap().is_none());
    let large = checkpoint().tokenizer;
    assert!(cache.entry(&large, &rows, None).unwrap().read(&rows, &large).unwrap().is_some());
}
