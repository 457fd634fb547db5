//! What would make a run on these rows worthless, by `file:line`, before it starts: calls that break their tool's schema, tools
//! that the chat template garbles, rows that stand twice or in both training and test.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde_json::Value;

use super::check_calls::check_call;
use super::check_tools::check_tool;
use super::finding::{Finding, Problem};
use super::json;
use super::rows::{Row, RowContent, TUTORIAL_SYSTEM};
use super::tools::tool_name;

/// All that can be found without a tokenizer, in the order of the rows; what is about all of them comes last.
pub fn check_rows(rows: &[Row]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut lists: HashSet<&[Value]> = HashSet::new();
    let mut last: Option<&Arc<Vec<Value>>> = None;
    let mut tools_seen: HashSet<&Value> = HashSet::new();
    let mut rows_seen: HashMap<u64, Vec<&Row>> = HashMap::new();
    for row in rows {
        if let RowContent::Chat { messages, tools, .. } = &row.content {
            let is_last = last.is_some_and(|last| Arc::ptr_eq(last, tools));
            last = Some(tools);
            if !is_last && lists.insert(tools) {
                duplicate_tools(row, tools, &mut findings);
                for tool in tools.iter().filter(|tool| tools_seen.insert(tool)) {
                    check_tool(tool, &mut |problem, text| findings.push(Finding::new(&row.origin, problem, text)));
                }
            }
            check_chat(row, messages, tools, &mut findings);
        }
        let same = rows_seen.entry(hash_of(&row.content)).or_default();
        match same.iter().find(|other| other.content == row.content) {
            Some(other) => {
                let text = format!("the same as `{}`", other.origin);
                findings.push(Finding::new(&row.origin, Problem::DuplicateRow, text));
            }
            None => same.push(row),
        }
    }
    findings.extend(imbalance(rows));
    findings
}

/// Test rows whose prompt is one of the training rows': their score says what was remembered, not what was learnt.
pub fn overlap(train: &[Row], test: &[Row]) -> Vec<Finding> {
    let mut known: HashMap<u64, Vec<&Row>> = HashMap::new();
    for row in train {
        if let Some(question) = question(row) {
            known.entry(hash_of(&question)).or_default().push(row);
        }
    }
    let find = |row: &Row| {
        let asked = question(row)?;
        let same = known.get(&hash_of(&asked))?.iter().find(|other| question(other).as_ref() == Some(&asked))?;
        let text = format!("its prompt is that of the training row `{}`", same.origin);
        Some(Finding::new(&row.origin, Problem::InBoth, text))
    };
    test.iter().filter_map(find).collect()
}

/// How many rows call no tool, of how many chats.
pub fn without_calls(rows: &[Row]) -> (usize, usize) {
    let chats = rows.iter().filter(|row| matches!(row.content, RowContent::Chat { .. }));
    chats.fold((0, 0), |(silent, all), row| (silent + usize::from(calls(row).next().is_none()), all + 1))
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What a row asks.
#[derive(Hash, PartialEq)]
enum Question<'a> {
    Text(&'a str),
    /// All up to the last message of the user, without the developer's.
    Messages(Vec<&'a Value>),
}

fn question(row: &Row) -> Option<Question<'_>> {
    let messages = match &row.content {
        RowContent::Text { prompt, text } => return Some(Question::Text(prompt.as_deref().unwrap_or(text))),
        RowContent::Chat { messages, .. } => messages,
    };
    let last = messages.iter().rposition(|message| message["role"] == "user")?;
    let of_developer = |message: &&Value| matches!(message["role"].as_str(), Some("system" | "developer"));
    Some(Question::Messages(messages[..=last].iter().filter(|message| !of_developer(message)).collect()))
}

fn calls(row: &Row) -> impl Iterator<Item = &Value> {
    let messages = match &row.content {
        RowContent::Chat { messages, .. } => &messages[..],
        RowContent::Text { .. } => &[],
    };
    messages.iter().filter_map(|message| message["tool_calls"].as_array()).flatten().map(|call| &call["function"])
}

fn duplicate_tools(row: &Row, tools: &[Value], findings: &mut Vec<Finding>) {
    let mut seen = HashSet::new();
    for name in tools.iter().filter_map(tool_name).filter(|name| !seen.insert(*name)) {
        findings.push(Finding::new(
            &row.origin,
            Problem::DuplicateTool,
            format!("the tool `{name}` is declared twice"),
        ));
    }
}

fn check_chat(row: &Row, messages: &[Value], tools: &[Value], findings: &mut Vec<Finding>) {
    let mut add = |problem, text: String| findings.push(Finding::new(&row.origin, problem, text));
    for function in calls(row) {
        let name = function["name"].as_str().unwrap_or("?");
        match tools.iter().find(|tool| tool_name(tool) == Some(name)) {
            Some(tool) => check_call(name, &tool["function"]["parameters"], &function["arguments"], &mut add),
            None => add(Problem::UndeclaredTool, format!("no tool is named `{name}`")),
        }
    }
    let opening = messages.first().filter(|message| matches!(message["role"].as_str(), Some("system" | "developer")));
    let text = opening.map_or(String::new(), |message| message["content"].to_string());
    if !tools.is_empty() && !text.contains(TUTORIAL_SYSTEM) {
        let text = match opening {
            Some(_) => "the system message replaces the sentence after which FunctionGemma calls tools; begin it with",
            None => {
                "no developer message holds the sentence after which FunctionGemma calls tools; give `--system` with"
            }
        };
        add(Problem::NoTrigger, format!("{text} \"{TUTORIAL_SYSTEM}\""));
    }
    for message in messages.iter().filter(|message| message["role"] == "tool") {
        if message["content"].as_str().is_some_and(|text| json::parse(text).is_ok_and(|value| value.is_object())) {
            let text = "the tool's response is an object as text, which the template writes as one quoted string";
            add(Problem::QuotedResponse, format!("{text}; give the object itself, or `--parse-tool-responses`"));
        }
    }
    if messages.last().is_some_and(|message| message["role"] == "user") {
        add(Problem::EndsWithUser, "there is no answer to the last message, so that it teaches none".into());
    }
}

/// Tools that nobody calls, and one that is called far more often than others.
fn imbalance(rows: &[Row]) -> Vec<Finding> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        row.tool_names().into_iter().for_each(|name| {
            counts.entry(name).or_default();
        });
        calls(row).filter_map(|call| call["name"].as_str()).for_each(|name| *counts.entry(name).or_default() += 1);
    }
    let place = rows.first().map_or("", |row| &row.origin.file);
    let most = counts.iter().max_by_key(|(_, count)| **count);
    let Some((most, calls_of_most)) = most.filter(|(_, count)| **count > 0) else { return Vec::new() };
    let shown = |names: Vec<&str>| {
        let some = names.iter().take(5).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        if names.len() > 5 { format!("{some} and {} more", names.len() - 5) } else { some }
    };
    let never: Vec<&str> = counts.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect();
    let rare = counts.iter().filter(|(_, count)| **count > 0 && **count * 20 < *calls_of_most);
    let rare: Vec<&str> = rare.map(|(name, _)| *name).collect();
    let mut texts = Vec::new();
    if !never.is_empty() {
        texts.push(format!("of {} tools nothing calls {}", counts.len(), shown(never)));
    }
    if !rare.is_empty() {
        let text = "is called more than 20 times as often as";
        texts.push(format!("`{most}` ({calls_of_most} calls) {text} {}", shown(rare)));
    }
    texts.into_iter().map(|text| Finding::new(place, Problem::Imbalance, text)).collect()
}

/// A line for each problem, errors first: the first finding, and how many more there are.
pub fn summary(findings: &[Finding]) -> Vec<String> {
    let mut by_problem: BTreeMap<_, (usize, &Finding)> = BTreeMap::new();
    for finding in findings {
        by_problem.entry((!finding.problem.is_error(), finding.problem)).or_insert((0, finding)).0 += 1;
    }
    let line = |(count, first): (usize, &Finding)| match count {
        1 => first.to_string(),
        count => format!("{first}; and {} more of this", count - 1),
    };
    by_problem.into_values().map(line).collect()
}
