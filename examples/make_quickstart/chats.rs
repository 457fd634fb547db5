//! Draws the chats: requests for the tools of a list, requests that none of them serves, and the right answers.

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

use crate::phrase::{Phrase, expand};
use crate::pool::{Pool, Side};
use crate::tools::{Covers, Stage, Tool, draw_tools, near};

const SYSTEM: &str = "You are a model that can do function calling with the following functions";
/// Requests for a topic's `things`.
const FRAMES: [&str; 24] = [
    "Find [X].",
    "I need [X].",
    "Show me [X].",
    "Look up [X].",
    "What is [X]?",
    "Search for [X].",
    "Where can I find [X]?",
    "Where is [X]?",
    "Tell me about [X].",
    "Can you find [X]?",
    "Can you look up [X]?",
    "Could you get me [X]?",
    "Please check [X].",
    "Please find [X].",
    "Do you know [X]?",
    "I'm looking for [X].",
    "I would like to see [X].",
    "Give me [X].",
    "Get me [X].",
    "Is there anything on [X]?",
    "What do we know about [X]?",
    "Look up [X] for me.",
    "Can you find [X] for me?",
    "Let me see [X], please.",
];
/// Requests to say something again.
const REPEATS: [&str; 4] = ["Repeat [X].", "Say [X].", "Repeat after me: [X].", "Please write [X]."];
/// Share of the requests whose blanks are filled with made-up words: what cannot be known must be copied.
const MADE_UP: f64 = 0.5;
const OPENINGS: [&str; 6] = ["Quick question: ", "Hi! ", "Hello. ", "Can you help? ", "Hey, ", "One more thing: "];
const CLOSINGS: [&str; 4] = [" Thanks!", " Please.", " It is urgent.", " Thank you."];
const JOINTS: [&str; 4] = [" Also: ", " And then: ", " ", " And one more: "];
const REFUSALS: [&str; 4] = [
    "I can't do that with the tools I have.",
    "None of my tools can help with that.",
    "Sorry, my tools can't do that.",
    "I have no tool for that.",
];
const SMALL_TALK: [(&str, &str); 8] = [
    ("Hello!", "Hello! How can I help you?"),
    ("Good morning!", "Good morning! How can I help you?"),
    ("Thanks!", "You're welcome."),
    ("Thank you, that was all.", "You're welcome."),
    ("Who are you?", "I am an assistant that calls tools."),
    ("What can you do?", "I can call the tools I am given."),
    ("Hi there", "Hello! How can I help you?"),
    ("Bye!", "Goodbye!"),
];

/// What the rows after a share of all are about.
pub type Course = fn(share: f64, rng: &mut ChaCha8Rng) -> Stage;

/// `count` rows as JSON objects `{"messages", "tools"}`; each run of `group` rows has the same tools.
pub fn write_chats(pool: &Pool, course: Course, seed: u64, count: usize, group: usize) -> Vec<Value> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut rows = Vec::with_capacity(count);
    while rows.len() < count {
        let stage = course(rows.len() as f64 / count as f64, &mut rng);
        let tools = draw_tools(pool, stage, &mut rng);
        let declarations: Vec<&Value> = tools.iter().map(|tool| &tool.declaration).collect();
        for _ in 0..group.min(count - rows.len()) {
            let mut messages = vec![json!({ "role": "developer", "content": SYSTEM })];
            messages.extend(draw_chat(pool, &tools, &mut rng));
            rows.push(json!({ "messages": messages, "tools": declarations }));
        }
    }
    rows
}

/// The first course: to copy words is learned first and without tools, where it takes the fewest tokens; then to copy them into
/// a call, then which tool to call, and of two search tools last.
pub fn words_and_tools(share: f64, rng: &mut ChaCha8Rng) -> Stage {
    match share {
        0.0..0.12 => Stage::NoTool,
        0.12..0.22 => Stage::OneTool,
        0.22..0.32 => Stage::TwoTools,
        0.32..0.55 => Stage::All,
        _ if rng.random_bool(0.05) => Stage::NoTool,
        _ => Stage::Sides,
    }
}

/// The second course: to ask each of several search tools by its own name, one that nobody has seen.
pub fn names(_share: f64, rng: &mut ChaCha8Rng) -> Stage {
    if rng.random_bool(0.6) { Stage::Names } else { words_and_tools(1.0, rng) }
}

/// `count` rows of the quickstart's form and job, with requests that nobody has seen: its learning rate and epochs are chosen on them.
pub fn write_validation(pool: &Pool, seed: u64, count: usize) -> Vec<Value> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut rows = Vec::with_capacity(count);
    while rows.len() < count {
        let side = if rows.len() % 2 == 0 { Side::Work } else { Side::World };
        let phrase = topic_request(pool, *pool.side(side).choose(&mut rng).expect("topics"), true, &mut rng);
        if !pool.resembles_held_out(&phrase.text) {
            let name = if side == Side::Work { "search_minerva" } else { "search_atlas" };
            let arguments = json!({ "query": phrase.arguments[0].1 }).to_string();
            rows.push(json!({ "user_content": phrase.text, "tool_name": name, "tool_arguments": arguments }));
        }
    }
    rows
}

/// The messages after the developer's.
fn draw_chat(pool: &Pool, tools: &[Tool], rng: &mut ChaCha8Rng) -> Vec<Value> {
    loop {
        let (text, answer) = match rng.random_range(0..100) {
            _ if tools.is_empty() => repetition(pool, rng),
            0..2 => small_talk(rng),
            2..10 => unserved(pool, tools, rng),
            10..14 => two_requests(pool, tools, rng),
            _ => one_request(pool, tools, rng),
        };
        if pool.resembles_held_out(&text) {
            continue;
        }
        let mut messages = vec![json!({ "role": "user", "content": text })];
        messages.extend(match answer {
            Answer::Prose(words) => vec![json!({ "role": "assistant", "content": words })],
            Answer::Calls(calls) if calls.len() == 1 && rng.random_bool(0.06) => answered(pool, calls, rng),
            Answer::Calls(calls) => vec![assistant(&calls)],
        });
        return messages;
    }
}

/// What the assistant does.
enum Answer {
    Prose(String),
    Calls(Vec<Call>),
}

/// A call of a tool.
struct Call {
    name: String,
    arguments: Value,
    /// Whether it looks something up, rather than does something.
    search: bool,
}

fn small_talk(rng: &mut ChaCha8Rng) -> (String, Answer) {
    let (text, answer) = SMALL_TALK.choose(rng).expect("small talk");
    (text.to_string(), Answer::Prose(answer.to_string()))
}

/// Words to say again: a thing of a topic, or up to five made-up words.
fn repetition(pool: &Pool, rng: &mut ChaCha8Rng) -> (String, Answer) {
    let frame = REPEATS.choose(rng).expect("frames");
    let words = if rng.random_bool(0.5) {
        let topic = pool.topics.choose(rng).expect("topics");
        expand(topic.things.choose(rng).expect("things"), &pool.words, true, rng).text
    } else {
        (0..rng.random_range(1..=5)).map(|_| pool.words.made_up(rng)).collect::<Vec<_>>().join(" ")
    };
    (frame.replace("[X]", &words), Answer::Prose(words))
}

/// A request for one of the tools, now and then with a greeting, thanks or no capitals.
fn one_request(pool: &Pool, tools: &[Tool], rng: &mut ChaCha8Rng) -> (String, Answer) {
    let (mut phrase, calls) = request(pool, tools, rng);
    let text = match rng.random_range(0..100) {
        0..6 => OPENINGS.choose(rng).expect("openings").to_string() + &phrase.text,
        6..12 => std::mem::take(&mut phrase.text) + CLOSINGS.choose(rng).expect("closings"),
        _ => phrase.text,
    };
    (text, Answer::Calls(calls))
}

/// Two requests in one message, answered by calls back to back.
fn two_requests(pool: &Pool, tools: &[Tool], rng: &mut ChaCha8Rng) -> (String, Answer) {
    let (first, mut calls) = request(pool, tools, rng);
    let (second, more) = request(pool, tools, rng);
    calls.extend(more);
    (first.text + JOINTS.choose(rng).expect("joints") + &second.text, Answer::Calls(calls))
}

/// A request that no tool of the list serves.
fn unserved(pool: &Pool, tools: &[Tool], rng: &mut ChaCha8Rng) -> (String, Answer) {
    let text = if tools.iter().any(|tool| !matches!(tool.covers, Covers::Action(_))) {
        foreign_to_searches(pool, tools, rng)
    } else {
        foreign_to_actions(pool, tools, rng)
    };
    (text, Answer::Prose(REFUSALS.choose(rng).expect("refusals").to_string()))
}

/// A topic of the side that the tools leave out, or an action.
fn foreign_to_searches(pool: &Pool, tools: &[Tool], rng: &mut ChaCha8Rng) -> String {
    let covered: Vec<usize> = tools.iter().flat_map(|tool| tool.topics()).copied().collect();
    let unsaid = tools.iter().any(|tool| matches!(tool.covers, Covers::Unsaid(_)));
    let missing =
        [Side::Work, Side::World].into_iter().find(|&side| covered.iter().all(|&i| pool.topics[i].side != side));
    if let (Some(side), false, true) = (missing, unsaid, rng.random_bool(0.6)) {
        let served: Vec<usize> = tools.iter().filter_map(Tool::action).collect();
        loop {
            let topic = *pool.side(side).choose(rng).expect("topics");
            if !served.iter().any(|&action| near(pool, action, &[topic])) {
                return topic_request(pool, topic, rng.random_bool(MADE_UP), rng).text;
            }
        }
    }
    loop {
        let action = rng.random_range(0..pool.actions.len());
        let searchable = !pool.actions[action].near.is_empty() && (unsaid || near(pool, action, &covered));
        if !searchable && !tools.iter().any(|tool| tool.action() == Some(action)) {
            return action_request(pool, action, rng).text;
        }
    }
}

/// Another action or any topic that no action of the list is near to.
fn foreign_to_actions(pool: &Pool, tools: &[Tool], rng: &mut ChaCha8Rng) -> String {
    let served: Vec<usize> = tools.iter().filter_map(Tool::action).collect();
    loop {
        if rng.random_bool(0.5) {
            let topic = rng.random_range(0..pool.topics.len());
            if !served.iter().any(|&action| near(pool, action, &[topic])) {
                return topic_request(pool, topic, rng.random_bool(MADE_UP), rng).text;
            }
        } else {
            let action = rng.random_range(0..pool.actions.len());
            if !served.contains(&action) {
                return action_request(pool, action, rng).text;
            }
        }
    }
}

/// A request for a tool drawn from the list, and the calls that serve it. Where several search tools say nothing about
/// what they cover, all of them are asked, in any order.
fn request(pool: &Pool, tools: &[Tool], rng: &mut ChaCha8Rng) -> (Phrase, Vec<Call>) {
    let tool = tools.choose(rng).expect("a list has tools");
    match &tool.covers {
        Covers::Action(action) => {
            let phrase = action_request(pool, *action, rng);
            let call =
                Call { name: tool.name.clone(), arguments: action_arguments(pool, *action, &phrase), search: false };
            (phrase, vec![call])
        }
        Covers::Topics(topics, parameter) => {
            let topic = *topics.choose(rng).expect("a tool covers topics");
            let phrase = topic_request(pool, topic, rng.random_bool(MADE_UP), rng);
            let call = search_call(tool, parameter, &phrase);
            (phrase, vec![call])
        }
        Covers::Unsaid(parameter) => {
            let topic = rng.random_range(0..pool.topics.len());
            let phrase = topic_request(pool, topic, rng.random_bool(MADE_UP), rng);
            let searches = tools.iter().filter(|tool| matches!(tool.covers, Covers::Unsaid(_)));
            let mut calls: Vec<Call> = searches.map(|tool| search_call(tool, parameter, &phrase)).collect();
            calls.shuffle(rng);
            (phrase, calls)
        }
    }
}

/// Something about a topic, by one of its own questions or by a frame for any topic. `made_up` as in [`expand`].
fn topic_request(pool: &Pool, topic: usize, made_up: bool, rng: &mut ChaCha8Rng) -> Phrase {
    let topic = &pool.topics[topic];
    if rng.random_bool(0.4) {
        return expand(topic.asks.choose(rng).expect("asks"), &pool.words, made_up, rng);
    }
    let thing = topic.things.choose(rng).expect("things");
    // A thing that begins with a blank may have an article of its own, and `how to` needs none.
    let article = !thing.starts_with('{') && !thing.starts_with("how ") && rng.random_bool(0.5);
    let frame = FRAMES.choose(rng).expect("frames").replace("[X]", if article { "the [X]" } else { "[X]" });
    expand(&frame.replace('X', thing), &pool.words, made_up, rng)
}

/// A request for an action. The words of an enumeration are never made up.
fn action_request(pool: &Pool, action: usize, rng: &mut ChaCha8Rng) -> Phrase {
    let action = &pool.actions[action];
    let made_up = rng.random_bool(MADE_UP) && !action.parameters.values().any(|declared| declared.contains('|'));
    expand(action.asks.choose(rng).expect("asks"), &pool.words, made_up, rng)
}

fn search_call(tool: &Tool, parameter: &str, phrase: &Phrase) -> Call {
    let query = phrase.arguments.iter().map(|(_, words)| words.as_str()).collect::<Vec<_>>().join(" ");
    Call { name: tool.name.clone(), arguments: json!({ parameter: query }), search: true }
}

/// The arguments of an action in the types it declares.
fn action_arguments(pool: &Pool, action: usize, phrase: &Phrase) -> Value {
    let mut arguments = Map::new();
    for (name, words) in &phrase.arguments {
        let kind = pool.actions[action]
            .parameters
            .get(name)
            .map_or("string", |declared| declared.split(':').next().unwrap_or(""));
        let value = match kind {
            "integer" => json!(words.parse::<i64>().unwrap_or_else(|_| panic!("`{words}` is no integer"))),
            "boolean" => json!(words == "true"),
            _ => json!(words),
        };
        arguments.insert(name.clone(), value);
    }
    Value::Object(arguments)
}

fn assistant(calls: &[Call]) -> Value {
    let calls: Vec<Value> = calls
        .iter()
        .map(|call| json!({ "type": "function", "function": { "name": call.name, "arguments": call.arguments } }))
        .collect();
    json!({ "role": "assistant", "tool_calls": calls })
}

/// A call, the tool's response and the answer made of it.
fn answered(pool: &Pool, calls: Vec<Call>, rng: &mut ChaCha8Rng) -> Vec<Value> {
    let (response, answer) = if calls[0].search {
        let finding = expand("{finding}", &pool.words, false, rng).text;
        (json!({ "answer": finding }), format!("I found this: {finding}."))
    } else if rng.random_bool(0.8) {
        (json!({ "status": "ok" }), "Done.".to_string())
    } else {
        (json!({ "status": "error" }), "Sorry, that did not work.".to_string())
    };
    let content = json!({ "name": calls[0].name, "response": response });
    vec![
        assistant(&calls),
        json!({ "role": "tool", "content": content }),
        json!({ "role": "assistant", "content": answer }),
    ]
}
