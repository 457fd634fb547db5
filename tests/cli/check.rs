//! `engine check`, and what `engine train` makes of it; the forms and columns that rows come in.

use std::fs;

use crate::{Run, engine, folder_with, names, path, quickstart, run, train};

/// A chat of the quickstart's tools in which `call` is made.
fn chat(question: &str, call: &str) -> String {
    format!(
        r#"{{"messages": [{{"role": "developer", "content": "You are a model that can do function calling with the following functions"}},
        {{"role": "user", "content": "{question}"}}, {{"role": "assistant", "tool_calls": [{call}]}}]}}"#
    )
    .replace('\n', " ")
}

const GOOD: &str = r#"{"name": "search_atlas", "arguments": {"query": "x"}}"#;
const WRONG: &str = r#"{"name": "search_atlas", "arguments": {"question": "x"}}"#;

/// `engine check` of these rows with the quickstart's tools.
fn check(text: &str, extra: &[&str]) -> Run {
    let (_folder, file) = folder_with("rows.jsonl", text);
    let tools = path(&quickstart().join("tools.json"));
    run(&[&["check", "--dataset", &file, "--tools", &tools], extra].concat())
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
}

#[test]
fn good_rows_pass_with_their_lengths() {
    let q = quickstart();
    let (model, tools) = (path(&q.join("model")), path(&q.join("tools.json")));
    let (rows, test) = (path(&q.join("train.jsonl")), path(&q.join("test.jsonl")));
    let base = ["check", "--model", &model, "--tools", &tools, "--dataset", &rows];
    let good = run(&[&base[..], &["--eval-dataset", &test, "--strict"]].concat());
    assert_eq!(good.code, 0, "{}{}", good.stdout, good.stderr);
    has(
        &good.stdout,
        &[
            "0 of 20 training chats call no tool",
            "tokens of training rows: least 173, median 184, 95 % at most 193, most 196\n",
        ],
    );
    has(&good.stderr, &["0 errors and 0 warnings in 40 rows", "train.jsonl`: 20 rows, the tutorial's form"]);
    let same = run(&[&base[..], &["--eval-dataset", &rows]].concat());
    assert_eq!(same.code, 1, "no file may be trained and evaluated on");
    has(&same.stdout, &["error: ", "train.jsonl:1: in training and evaluation"]);
}

#[test]
fn errors_and_bad_rows_have_their_places_and_end_with_1() {
    let text = format!("{}\n{}\n{{oops\n", chat("a", WRONG), chat("b", &GOOD.replace("atlas", "x")));
    let found = check(&text, &[]);
    assert_eq!(found.code, 1);
    has(
        &found.stdout,
        &[
            "rows.jsonl:1: unknown argument: `search_atlas` has no argument `question`; it has `query`",
            "rows.jsonl:1: missing argument",
            "rows.jsonl:2`: the row calls `search_x`, which is not among the tools",
            "rows.jsonl:3` is not JSON",
            "hint: ",
        ],
    );
    has(&found.stderr, &["error: 4 errors and 1 warning in 3 rows"]);
}

#[test]
fn warnings_pass_unless_they_are_strict_and_are_listed_up_to_a_number() {
    let text = format!("{}\n", chat("a", GOOD)).repeat(30);
    let found = check(&text, &[]);
    assert_eq!(found.code, 0, "{}", found.stdout);
    has(&found.stdout, &["warning: duplicate row: 9 more; `--all` lists them"]);
    assert_eq!(found.stdout.matches("the same as").count(), 20);
    assert_eq!(check(&text, &["--all"]).stdout.matches("the same as").count(), 29);
    assert_eq!(check(&text, &["--strict"]).code, 1);
}

#[test]
fn tokens_that_are_never_scored_and_text_that_spells_control_tokens_are_found() {
    let model = path(&quickstart().join("model"));
    let text = format!("{}\n{}\n", chat("a", GOOD), chat("<end_of_turn>", GOOD));
    let cut = ["--model", &model, "--max-length", "40", "--completion-only-loss", "--overlong"];
    let found = check(&text, &[&cut[..], &["truncate"]].concat());
    assert_eq!(found.code, 1);
    has(
        &found.stdout,
        &["rows.jsonl:1: nothing scored", "warning: ", "rows.jsonl:2: control token", "`<end_of_turn>`"],
    );
    assert_eq!(check(&text, &[&cut[..], &["error"]].concat()).code, 1);
    let dropped = check(&text, &[&cut[..], &["drop"]].concat());
    assert_eq!(dropped.code, 0, "{}", dropped.stdout);
    has(&dropped.stdout, &["warning: ", "rows.jsonl:1: too long", "leaves it out"]);
}

#[test]
fn training_warns_of_what_check_finds_and_strict_refuses_it() {
    let (folder, file) = folder_with("rows.jsonl", &format!("{}\n{}\n", chat("a", WRONG), chat("b", GOOD)));
    let output = folder.path().join("out");
    let refused = train(&output, &["--dataset", &file, "--strict"]);
    assert_eq!(refused.code, 1);
    has(
        &refused.stderr,
        &["warning: ", "rows.jsonl:1: unknown argument", "`--strict` lets none pass", "hint: `engine check`"],
    );
    assert!(!output.exists());
    let warned = train(&output, &["--dataset", &file]);
    assert_eq!(warned.code, 0, "{}", warned.stderr);
    has(&warned.stderr, &["warning: ", "rows.jsonl:1: unknown argument"]);
}

#[test]
fn training_on_nothing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--max-length", "40", "--overlong", "truncate", "--completion-only-loss"];
    let refused = train(&folder.path().join("out"), &flags);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    has(&refused.stderr, &["no example has a scored token", "hint: raise `--max-length`"]);
    assert!(names(folder.path()).is_empty());
}

#[test]
fn calls_without_their_tools_are_refused_with_a_hint() {
    let (folder, file) = folder_with("rows.jsonl", &chat("a", GOOD));
    let model = path(&quickstart().join("model"));
    let output = path(&folder.path().join("out"));
    let refused = run(&["train", "--model", &model, "--dataset", &file, "--output-dir", &output]);
    assert_eq!(refused.code, 1);
    has(
        &refused.stderr,
        &["rows.jsonl:1`", "calls `search_atlas` but declares no tools", "hint: give them with `--tools FILE`"],
    );
}

#[test]
fn columns_are_renamed_and_csv_is_read() {
    let text = "question,tool_name,args\nWhere?,search_atlas,\"{\"\"query\"\": \"\"x\"\"}\"\n";
    let (_folder, file) = folder_with("rows.csv", text);
    let tools = path(&quickstart().join("tools.json"));
    let base = ["check", "--dataset", &file, "--tools", &tools, "--column", "user_content=question"];
    let read = run(&[&base[..], &["--column", "tool_arguments=args"]].concat());
    assert_eq!(read.code, 0, "{}{}", read.stdout, read.stderr);
    has(&read.stderr, &["1 row, the tutorial's form"]);
    let missing = run(&[&base[..], &["--column", "tool_arguments=nowhere"]].concat());
    has(&missing.stdout, &["rows.csv:2`", "no `nowhere`"]);
    for (wrong, message) in [("quesiton=a", "there is no field `quesiton`"), ("question", "is no NAME=COLUMN")] {
        let refused = run(&[&base[..], &["--column", wrong]].concat());
        assert_eq!(refused.code, 2);
        has(&refused.stderr, &[message, "hint: "]);
    }
}

#[test]
fn preview_reads_only_its_row_and_obeys_the_limit() {
    let (_folder, file) = folder_with("rows.jsonl", &format!("{}\n{{oops\n", chat("a", GOOD)));
    let q = quickstart();
    let (model, tools) = (path(&q.join("model")), path(&q.join("tools.json")));
    let base = ["preview", "--model", &model, "--tools", &tools, "--dataset", &file];
    assert_eq!(run(&base).code, 0);
    let second = run(&[&base[..], &["--row", "2"]].concat());
    assert_eq!(second.code, 1);
    has(&second.stderr, &["rows.jsonl:2` is not JSON"]);
    let long = run(&[&base[..], &["--max-length", "30"]].concat());
    assert_eq!(long.code, 1);
    has(&long.stderr, &["rows.jsonl:1", "longer than 30 tokens", "hint: "]);
    let cut = run(&[&base[..], &["--max-length", "30", "--overlong", "truncate"]].concat());
    assert_eq!(cut.code, 0);
    has(&cut.stdout, &["rows.jsonl:1: 30 tokens"]);
}

#[test]
fn a_folder_says_what_it_trains_on_and_what_it_leaves_out() {
    let q = quickstart();
    let folder = tempfile::tempdir().unwrap();
    for name in ["train.jsonl", "test.jsonl"] {
        fs::copy(q.join(name), folder.path().join(name)).unwrap();
    }
    let mut command = engine();
    command.args(["check", "--tools", &path(&q.join("tools.json")), "--dataset", &path(folder.path())]);
    let read: Run = command.output().unwrap().into();
    assert_eq!(read.code, 0, "{}", read.stderr);
    has(&read.stderr, &["took `train.jsonl`, left out `test.jsonl`; `", ":test` takes"]);
}

#[test]
fn a_check_holds_out_the_rows_that_training_does() {
    // Row 1 is there three times: whatever part of it is held out is trained on too.
    let texts = ["a", "a", "a", "b", "c", "d", "e", "f"].map(|text| chat(text, GOOD) + "\n");
    let whole = check(&texts.concat(), &[]);
    assert!(!whole.stdout.contains("in training and evaluation"), "{}", whole.stdout);
    let last = check(&texts[..3].concat(), &["--test-size", "1", "--shuffle", "false"]);
    has(&last.stdout, &["rows.jsonl:3: in training and evaluation", "0 of 2 training chats"]);
    // The last one of four.
    let share = check(&texts[2..6].concat(), &["--test-size", "0.25", "--shuffle", "false"]);
    has(&share.stdout, &["0 of 3 training chats"]);
    for (flags, said) in [
        (&["--test-size", "9"][..], "leaves no training row"),
        (&["--test-size", "-1"], "must be"),
        (&["--test-size", "1.5"], "neither a share"),
        (&["--test-size", "1", "--eval-dataset", "x.jsonl"], "cannot be used with"),
    ] {
        let refused = check(&texts.concat(), flags);
        assert_eq!(refused.code, 2, "{flags:?}: {}", refused.stderr);
        has(&refused.stderr, &[said]);
    }
}

#[test]
fn a_check_reads_the_config_of_a_run() {
    let found = run(&["check", "--config", &path(&quickstart().join("train.toml"))]);
    assert_eq!(found.code, 0, "{}{}", found.stdout, found.stderr);
    has(&found.stdout, &["tokens of training rows: least 173", "tokens of evaluation rows: least"]);
    // A flag wins over the file; what is a key of no run is none of a check.
    let (folder, file) =
        folder_with("train.yaml", "strict: true\nmax_length: 100\noutput_dir: out\nlearning_rate: 1.0e-3\n");
    let rows = path(&quickstart().join("train.jsonl"));
    let tools = path(&quickstart().join("tools.json"));
    let model = path(&quickstart().join("model"));
    let flags = ["check", "--config", &file, "--dataset", &rows, "--tools", &tools, "--model", &model];
    let strict = run(&[&flags[..], &["--overlong", "drop"]].concat());
    assert_eq!(strict.code, 1, "{}{}", strict.stdout, strict.stderr);
    has(&strict.stdout, &["more than the 100 of `--max-length`"]);
    assert_eq!(run(&[&flags[..], &["--overlong", "drop", "--max-length", "300"]].concat()).code, 0);
    std::fs::write(folder.path().join("train.yaml"), "no_such_key: 1\n").unwrap();
    let refused = run(&flags);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    has(&refused.stderr, &["unknown key `no_such_key`"]);
}

#[test]
fn what_a_check_finds_is_a_json_object_a_line_for_programs() {
    let model = path(&quickstart().join("model"));
    let text = format!("{}\n{}\n{{\"odd\": 1}}\n", chat("one", GOOD), chat("two", WRONG));
    let checked = check(&text, &["--model", &model, "--log-format", "json"]);
    assert_eq!(checked.code, 1);
    let lines: Vec<serde_json::Value> =
        checked.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found = |problem: &str| lines.iter().find(|line| line["problem"] == problem).unwrap();
    assert_eq!(found("bad row")["level"], "error");
    let unknown = found("unknown argument");
    assert!(unknown["place"].as_str().unwrap().ends_with("rows.jsonl:2"), "{unknown}");
    let result = lines.last().unwrap();
    assert_eq!((&result["type"], &result["bad_rows"], &result["rows"]), (&"result".into(), &1.into(), &3.into()));
    assert_eq!((&result["chats"], &result["chats_without_calls"]), (&2.into(), &0.into()));
    assert!(
        result["errors"].as_u64() >= Some(2) && result["lengths"]["training"]["most"].as_u64() > Some(100),
        "{result}"
    );
}
