//! Examples longer than `--max-length`.

use engine::batch::Example;
use engine::data::{MaxLength, Overlong};

fn example(line: usize, length: u32, scored_from: usize) -> Example {
    let scored = (0..length as usize).map(|t| t >= scored_from).collect();
    Example { ids: (0..length).collect(), scored, origin: format!("rows.jsonl:{line}") }
}

fn apply(policy: Overlong, lengths: &[u32]) -> engine::error::Result<(Vec<Example>, Option<String>)> {
    let examples = lengths.iter().zip(1..).map(|(length, line)| example(line, *length, 6)).collect();
    MaxLength { max_length: 8, policy }.apply(examples)
}

#[test]
fn examples_that_fit_pass_in_silence() {
    for policy in [Overlong::Truncate, Overlong::Drop, Overlong::Refuse] {
        let (examples, report) = apply(policy, &[8, 7]).unwrap();
        assert_eq!((examples.len(), report), (2, None));
    }
}

#[test]
fn truncation_keeps_the_start_and_says_so() {
    let (examples, report) = apply(Overlong::Truncate, &[9, 3, 20]).unwrap();
    assert_eq!(examples.iter().map(|e| e.ids.len()).collect::<Vec<_>>(), [8, 3, 8]);
    assert_eq!(examples[2].ids, (0..8).collect::<Vec<_>>());
    assert_eq!(examples[2].scored.len(), 8);
    let report = report.unwrap();
    assert!(report.contains("2 of 3") && report.contains("`rows.jsonl:3`, has 20"), "{report}");
    assert!(!report.contains("scored"), "{report}");
}

#[test]
fn an_example_that_loses_its_last_scored_token_is_counted() {
    let examples = vec![example(1, 12, 10), example(2, 12, 0)];
    let (examples, report) = MaxLength { max_length: 8, policy: Overlong::Truncate }.apply(examples).unwrap();
    assert_eq!(examples.len(), 2);
    assert!(report.unwrap().contains("1 of them lost every scored token"));
}

#[test]
fn dropping_keeps_the_others_and_says_so() {
    let (examples, report) = apply(Overlong::Drop, &[9, 3, 20]).unwrap();
    assert_eq!(examples, [example(2, 3, 6)]);
    assert!(report.unwrap().contains("2 of 3 examples are longer than 8 tokens and were dropped"));
    assert!(apply(Overlong::Drop, &[9]).is_err());
}

#[test]
fn refusing_names_the_row_the_lengths_and_the_flags() {
    let report = apply(Overlong::Refuse, &[3, 9, 20]).unwrap_err().report();
    for part in ["2 of 3", "8 tokens", "`rows.jsonl:2`", "`rows.jsonl:3`, has 20", "--max-length", "--overlong"] {
        assert!(report.contains(part), "{part}: {report}");
    }
}
