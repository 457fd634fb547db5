//! What `--dataset` may name, and what is said of it: CSV, patterns, several sources, one row; bad rows all at once.

use std::path::Path;

use engine::data::dataset::load_row;
use engine::data::{Dataset, Row, RowContent, RowOptions, load_dataset};
use tempfile::TempDir;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn load(source: impl AsRef<Path>) -> engine::error::Result<Dataset> {
    load_dataset(source.as_ref().to_str().unwrap(), &RowOptions::default())
}

fn report(source: impl AsRef<Path>) -> String {
    load(source).unwrap_err().report()
}

fn texts(rows: &[Row]) -> Vec<&str> {
    let text = |row| match row {
        &Row { content: RowContent::Text { ref text, .. }, .. } => text.as_str(),
        other => panic!("no text: {other:?}"),
    };
    rows.iter().map(text).collect()
}

#[test]
fn csv_has_columns_quotes_and_places() {
    let folder = folder(&[("a.csv", "\u{feff}prompt,completion,n\n\"a, \"\"b\"\"\nc\",d,1\ne,f,\n")]);
    let rows = load(folder.path().join("a.csv")).unwrap().rows;
    let parts = |row: &Row| (row.content.clone(), row.origin.line);
    let text = |prompt: &str, text: &str| RowContent::Text { prompt: Some(prompt.into()), text: text.into() };
    assert_eq!(parts(&rows[0]), (text("a, \"b\"\nc", "d"), 2));
    assert_eq!(parts(&rows[1]), (text("e", "f"), 4));
}

#[test]
fn bad_csv_is_refused_with_its_place_and_a_hint() {
    let cases: [(&[u8], &str, &str); 6] = [
        (b"text\na\nb,c\nd\n", "a.csv:3` has 2 fields, the header has 1", "double quotes"),
        (b"text;n\na;1\n", "a.csv:1`", "commas"),
        (b"text,text\na,b\n", "the column `text` stands twice", ""),
        (b"text\n\xff\n", "a.csv:2` is not UTF-8", "UTF-8"),
        (b"text\n", "a.csv` has no rows", ""),
        (b"question,n\na,b\n", "a.csv:2`", "--column"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.csv");
    for (content, expected, hint) in cases {
        std::fs::write(&path, content).unwrap();
        let report = report(&path);
        assert!(report.contains(expected) && report.contains(hint), "{report}");
    }
}

#[test]
fn several_sources_and_patterns_make_one_dataset_and_no_file_counts_twice() {
    let row = |text: &str| format!("{{\"text\": \"{text}\"}}");
    let folder =
        folder(&[("b1.jsonl", &row("1")), ("b2.jsonl", &row("2")), ("a.jsonl", &row("0")), ("c,d.jsonl", &row("3"))]);
    let at = |name: &str| folder.path().join(name).display().to_string();
    let both = format!("{}, {}", at("b?.jsonl"), at("a.jsonl"));
    assert_eq!(texts(&load(&both).unwrap().rows), ["1", "2", "0"]);
    assert_eq!(texts(&load(at("c,d.jsonl")).unwrap().rows), ["3"]);
    let twice = report(format!("{},{}", at("b*.jsonl"), at("b1.jsonl")));
    assert!(twice.contains("given twice") && twice.contains("hint:"), "{twice}");
    assert!(report(at("x*.jsonl")).contains("no file is named like"));
    assert!(report(at("x**.jsonl")).contains("is no pattern"));
}

#[test]
fn empty_lines_at_the_end_are_no_rows_and_others_are_refused() {
    let folder =
        folder(&[("a.jsonl", "{\"text\": \"a\"}\n\n  \n"), ("b.jsonl", "{\"text\": \"a\"}\n\n{\"text\": \"b\"}\n")]);
    assert_eq!(texts(&load(folder.path().join("a.jsonl")).unwrap().rows), ["a"]);
    assert!(report(folder.path().join("b.jsonl")).contains("b.jsonl:2` is empty"));
}

#[test]
fn keys_that_stand_twice_are_refused_wherever_they_are() {
    let folder = folder(&[("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"a\", \"text\": \"b\"}\n")]);
    let found = report(folder.path().join("a.jsonl"));
    assert!(found.contains("a.jsonl:2` is no row: the key `text` stands twice") && found.contains("hint:"), "{found}");
    let inside = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\", \"content\": \"b\"}]}";
    std::fs::write(folder.path().join("a.jsonl"), inside).unwrap();
    assert!(report(folder.path().join("a.jsonl")).contains("the key `content` stands twice"));
}

#[test]
fn bad_rows_are_told_all_at_once_the_first_twenty_by_their_place() {
    let line = |i: usize| if i.is_multiple_of(2) { "{\"text\": \"a\"}\n" } else { "{\"chat\": 1}\n" };
    let folder = folder(&[("a.jsonl", &(0..60).map(line).collect::<String>())]);
    let found = report(folder.path().join("a.jsonl"));
    assert!(found.contains("30 of 60 rows cannot be used:"), "{found}");
    assert!(found.contains("a.jsonl:2`") && found.contains("a.jsonl:40`") && !found.contains("a.jsonl:42`"), "{found}");
    assert!(found.contains("and 10 more") && found.contains("hint: a row is"), "{found}");
}

#[test]
fn many_lines_keep_their_order_and_their_numbers() {
    let text: String = (1..=10_000).map(|i| format!("{{\"text\": \"{i}\"}}\n")).collect();
    let folder = folder(&[("a.jsonl", &text)]);
    let rows = load(folder.path().join("a.jsonl")).unwrap().rows;
    assert_eq!(rows.len(), 10_000);
    for (i, (row, text)) in rows.iter().zip(texts(&rows)).enumerate() {
        assert_eq!((row.origin.line, text), (i + 1, (i + 1).to_string().as_str()));
    }
}

#[test]
fn one_row_is_read_without_what_comes_behind_it() {
    let folder = folder(&[("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n{oops\n")]);
    let source = folder.path().join("a.jsonl").display().to_string();
    let row = |number| load_row(&format!("{source},no/such/file.jsonl"), number, &RowOptions::default());
    assert_eq!(texts(&[row(2).unwrap()]), ["b"]);
    assert!(row(3).unwrap_err().report().contains("a.jsonl:3` is not JSON"));
    assert!(row(4).unwrap_err().report().contains("no/such/file.jsonl"));
    let report = load_row(&source, 4, &RowOptions::default()).unwrap_err().report();
    assert!(report.contains("there is no row 4") && report.contains("has 3 rows"), "{report}");
}

#[test]
fn what_is_taken_and_what_is_left_out_is_said() {
    let folder =
        folder(&[("train.jsonl", "{\"text\": \"a\"}"), ("test.jsonl", "{\"text\": \"b\"}"), ("tools.json", "[]")]);
    let notes = load(folder.path()).unwrap().notes;
    assert!(notes[0].contains("took `train.jsonl`, left out `test.jsonl`; `"), "{notes:?}");
    assert!(notes[0].contains(":test` takes") && !notes[0].contains("tools.json"), "{notes:?}");
    assert!(notes[1].ends_with(": 1 row, plain text"), "{notes:?}");
    let xlam = r#"{"query": "q", "tools": [{"name": "f"}], "answers": [{"name": "f", "arguments": {}}]}"#;
    std::fs::write(folder.path().join("x.jsonl"), format!("{xlam}\n{xlam}\n")).unwrap();
    assert!(load(folder.path().join("x.jsonl")).unwrap().notes[0].ends_with("x.jsonl`: 2 rows, xLAM's form"));
}

#[test]
fn a_call_of_a_tool_that_is_not_declared_is_refused_with_a_hint() {
    let row = |tools: &str| {
        let call = r#"{"role": "assistant", "tool_calls": [{"name": "f", "arguments": {}}]}"#;
        format!(r#"{{"messages": [{{"role": "user", "content": "q"}}, {call}]{tools}}}"#)
    };
    let folder = folder(&[("a.jsonl", &row("")), ("b.jsonl", &row(r#", "tools": [{"name": "g"}]"#))]);
    let none = report(folder.path().join("a.jsonl"));
    assert!(none.contains("a.jsonl:1`") && none.contains("calls `f` but declares no tools"), "{none}");
    assert!(none.contains("hint: give them with `--tools FILE`"), "{none}");
    assert!(report(folder.path().join("b.jsonl")).contains("`f`, which is not among the tools `g`"));
}

#[test]
fn rows_share_a_list_of_tools_that_stays_the_same() {
    let row = |tool: &str| {
        format!(r#"{{"messages": [{{"role": "user", "content": "q"}}], "tools": [{{"name": "{tool}"}}]}}"#)
    };
    let folder = folder(&[("a.jsonl", &[row("f"), row("f"), row("g")].join("\n"))]);
    let rows = load(folder.path().join("a.jsonl")).unwrap().rows;
    let tools = |i: usize| match &rows[i].content {
        RowContent::Chat { tools, .. } => tools,
        other => panic!("not a chat: {other:?}"),
    };
    assert!(std::sync::Arc::ptr_eq(tools(0), tools(1)));
    assert_eq!((rows[1].tool_names(), rows[2].tool_names()), (vec!["f"], vec!["g"]));
}
