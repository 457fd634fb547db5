//! The public set of outputs in tests/fixtures/conformance: our parser, the verdicts and our template by it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use engine::chat::FUNCTIONGEMMA_TEMPLATE;
use engine::chat::functiongemma::parser::{FaultKind, parse_output};
use engine::chat::template::ChatTemplate;
use engine::eval::verdict::{Expected, judge};
use serde::Deserialize;
use serde_json::{Value, json};

/// A line of a file; its README says what the fields mean.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    why: String,
    text: String,
    calls: Vec<Value>,
    prose: String,
    faults: Vec<Fault>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fault {
    kind: String,
    at: usize,
}

const FILES: [&str; 5] = ["rendered", "accepted", "prose", "faults", "truncated"];

fn cases(file: &str) -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/conformance").join(format!("{file}.jsonl"));
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

fn all() -> Vec<Case> {
    FILES.into_iter().flat_map(cases).collect()
}

/// `UnexpectedEnd` as `unexpected_end`.
fn named(kind: FaultKind) -> String {
    let mut name = String::new();
    for c in format!("{kind:?}").chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(c.to_lowercase());
    }
    name
}

#[test]
fn our_parser_reads_every_case_as_the_set_says() {
    for case in all() {
        let output = parse_output(&case.text);
        let calls: Vec<Value> =
            output.calls.iter().map(|call| json!({"name": call.name, "arguments": call.arguments})).collect();
        assert_eq!(calls, case.calls, "{}", case.name);
        assert_eq!(output.prose, case.prose, "{}", case.name);
        let faults: Vec<_> = output.faults.iter().map(|fault| (named(fault.kind), fault.at)).collect();
        let expected: Vec<_> = case.faults.into_iter().map(|fault| (fault.kind, fault.at)).collect();
        assert_eq!(faults, expected, "{}", case.name);
    }
}

#[test]
fn a_verdict_is_right_by_every_part_exactly_where_nothing_is_at_fault() {
    for case in all().into_iter().filter(|case| !case.calls.is_empty()) {
        let message = json!({"role": "assistant", "tool_calls": case.calls});
        let names: Vec<String> = case.calls.iter().map(|call| call["name"].as_str().unwrap().to_owned()).collect();
        let verdict = judge(&case.text, &Expected::from_messages(&[message]).unwrap(), &names);
        let valid = case.faults.is_empty();
        assert_eq!((verdict.format_valid, verdict.arguments_correct), (valid, valid), "{}", case.name);
        assert_eq!(verdict.exact, valid && case.prose.is_empty(), "{}", case.name);
    }
}

/// The texts are the reference's: `make_rendered.py` has them from FunctionGemma's own template.
#[test]
fn our_template_writes_the_calls_as_the_reference_does() {
    let special = BTreeMap::from([("bos_token".to_owned(), "<bos>".to_owned())]);
    let template = ChatTemplate::from_source(FUNCTIONGEMMA_TEMPLATE, special).unwrap();
    for case in cases("rendered") {
        let calls: Vec<Value> = case.calls.iter().map(|call| json!({"type": "function", "function": call})).collect();
        let mut answer = json!({"role": "assistant", "tool_calls": calls});
        if !case.prose.is_empty() {
            answer["content"] = json!(case.prose);
        }
        let text = template.render(&[json!({"role": "user", "content": "u"}), answer], &[], false).unwrap();
        let (_, written) = text.split_once("<start_of_turn>model\n").unwrap();
        assert_eq!(written, case.text, "{}", case.name);
    }
}

#[test]
fn the_set_is_what_its_readme_says() {
    let all = all();
    let names: BTreeSet<&str> = all.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), all.len(), "two cases have one name");
    assert!(all.iter().all(|case| !case.why.is_empty()));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/conformance");
    let readme = fs::read_to_string(folder.join("README.md")).unwrap();
    for file in FILES {
        let count = cases(file).len();
        assert!(readme.contains(&format!("| `{file}.jsonl` | {count} |")), "{file}.jsonl has {count} cases");
    }
    let files = fs::read_dir(&folder).unwrap().filter(|entry| {
        let path = entry.as_ref().unwrap().path();
        path.extension().is_some_and(|extension| extension == "jsonl")
    });
    assert_eq!(files.count(), FILES.len());
    // Every kind of fault has a case and its line in the README, and no other name is used.
    let used: BTreeSet<&str> = all.iter().flat_map(|case| &case.faults).map(|fault| fault.kind.as_str()).collect();
    let table = readme.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let listed: BTreeSet<&str> = table.map(|(name, _)| name).filter(|name| !name.ends_with(".jsonl")).collect();
    assert_eq!(used, listed);
}
