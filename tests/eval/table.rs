//! The table of examples and the score before and after, as they look on the screen.

use console::measure_text_width;
use engine::eval::report::{Answer, Report, Score, StrictScore};
use engine::eval::table::{before_after, certainty, examples_table, score_table};
use engine::eval::verdict::Expected;
use serde_json::json;

const CALL: &str = "<start_function_call>call:search_web{query:<escape>Apple stock price<escape>}<end_function_call><start_function_response>";

/// A report of (prompt, output) pairs where `search_web` was due.
fn report(pairs: &[(&str, &str)]) -> Report {
    let mut report = Report::default();
    for (prompt, output) in pairs {
        let call = json!({"name": "search_web", "arguments": {"query": "Apple stock price"}});
        let message = json!({"role": "assistant", "tool_calls": [call]});
        let answer = Answer { prompt: (*prompt).to_owned(), output: (*output).to_owned(), ..Answer::default() };
        report.add(answer, Expected::from_messages(&[message]).unwrap(), &["search_web".into(), "search_docs".into()]);
    }
    report
}

#[test]
fn a_wide_table_shows_everything() {
    let table = examples_table(
        &report(&[("Price of Apple?", CALL), ("What is the stock price of Apple?", "I do not know.")]),
        200,
    );
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("prompt ") && lines[0].ends_with("tool  strict"), "{table}");
    assert!(
        lines[2].starts_with("Price of Apple?  ") && lines[2].contains(CALL) && lines[2].ends_with("✓     ✓ correct"),
        "{table}"
    );
    assert!(lines[3].contains("Apple?  I do not know.  ") && lines[3].ends_with("✗     ✗ no call"), "{table}");
}

#[test]
fn a_narrow_table_keeps_to_the_width_and_its_tokens_readable() {
    let long = "What is the current stock price of Apple, and how has it moved over the last four weeks?";
    let report = report(&[
        (long, CALL),
        ("日本の株価は今いくらですか、教えてください。", "日本".repeat(40).as_str()),
        ("x", "y"),
    ]);
    for width in 44..160 {
        let table = examples_table(&report, width);
        for line in table.lines() {
            assert!(measure_text_width(line) <= width, "{width}: {line}");
        }
        let row = table.lines().nth(2).unwrap();
        assert!(row.contains("…  ") && row.ends_with("  ✓     ✓ correct"), "{width}: {row}");
        for (open, _) in row.match_indices('<') {
            let token = &row[open..];
            assert!(
                ["<call>", "</call>", "<esc>", "<response>"].iter().any(|short| token.starts_with(short)),
                "{width}: {row}"
            );
        }
    }
    assert!(
        examples_table(&report, 100).contains("<call>call:search_web{query:<esc>Apple"),
        "{}",
        examples_table(&report, 100)
    );
}

#[test]
fn a_cell_is_one_line_and_cannot_command_the_terminal() {
    let table = examples_table(&report(&[("a\nb\tc", "\x1b[2Jx\r\n")]), 80);
    let row = table.lines().nth(2).unwrap();
    assert!(row.starts_with("a⏎b c") && row.contains("·[2Jx"), "{row}");
    assert!(!table.contains('\x1b'));
}

#[test]
fn an_empty_report_and_a_tiny_terminal_still_give_a_table() {
    assert!(examples_table(&Report::default(), 80).contains("strict"));
    assert!(examples_table(&report(&[("prompt", CALL)]), 0).contains("✓ correct"));
}

#[test]
fn before_and_after_stand_side_by_side() {
    let before = Score { correct: 8, total: 20, strict: StrictScore { format_valid: 2, ..StrictScore::default() } };
    let strict = StrictScore { format_valid: 18, name: 16, arguments: 1, exact: 0, ..StrictScore::default() };
    let after = Score { correct: 18, total: 20, strict };
    assert_eq!(
        before_after(&before, &after),
        "\
score                     before       after
tool choice              8 of 20    18 of 20     +10
strict: format           2 of 20    18 of 20     +16
strict: + name           0 of 20    16 of 20     +16
strict: + arguments      0 of 20     1 of 20      +1
strict: exact            0 of 20     0 of 20       =
"
    );
    assert!(before_after(&after, &before).contains("-10"));
}

#[test]
fn the_two_rules_have_a_mark_each() {
    let call = CALL.replace("Apple stock price", "bananas");
    let table = examples_table(&report(&[("x", &call), ("y", "search_web")]), 200);
    let ends: Vec<&str> = table.lines().skip(2).collect();
    assert!(ends[0].ends_with("✓     ✗ wrong arguments"), "{table}");
    assert!(ends[1].ends_with("✓     ✗ no call"), "{table}");
}

#[test]
fn a_score_says_how_much_it_says() {
    let strict = StrictScore { format_valid: 18, name: 16, arguments: 1, exact: 0, ..StrictScore::default() };
    let after = Score { correct: 18, total: 20, strict };
    assert_eq!(
        score_table(&after),
        "\
score                    answers   95 % interval
tool choice             18 of 20      70 to 97 %
strict: format          18 of 20      70 to 97 %
strict: + name          16 of 20      58 to 92 %
strict: + arguments      1 of 20       1 to 24 %
strict: exact            0 of 20       0 to 16 %
"
    );
    let before = Score { correct: 8, total: 20, ..Score::default() };
    let text = certainty(&before, &after, Some((10, 0)));
    assert!(text.contains("22 to 61 % before, 70 to 97 % after") && text.contains("p = 1.95e-3"), "{text}");
    assert!(!certainty(&before, &after, None).contains("McNemar"));
}
