//! Draws tool lists: search tools over topics, search tools that say nothing, and tools that act.

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

use crate::pool::{Pool, Side};

/// A tool of a list, and what it is for.
pub struct Tool {
    pub name: String,
    /// As it stands in a row's `tools`.
    pub declaration: Value,
    pub covers: Covers,
}

/// What a tool answers.
pub enum Covers {
    /// Searches these topics; its only parameter has this name.
    Topics(Vec<usize>, String),
    /// A search whose description does not say over what.
    Unsaid(String),
    /// Does this action.
    Action(usize),
}

const VERBS: [&str; 7] = ["search", "find", "lookup", "query", "ask", "get", "browse"];
const QUERY: [(&str, &str); 8] = [
    ("query", "what to look for"),
    ("query", "search words"),
    ("query", "the search query"),
    ("query", "query text"),
    ("q", "search words"),
    ("question", "the question to answer"),
    ("text", "text to search for"),
    ("keywords", "words to look up"),
];
const WORK: [&str; 8] = [
    "internal company documents",
    "the company intranet",
    "rules, people and documents of the company",
    "everything inside our company",
    "internal knowledge of the firm",
    "our own files, projects and policies",
    "questions about the workplace",
    "the files of the company and its offices",
];
const WORLD: [&str; 8] = [
    "the public web",
    "public information on the internet",
    "general knowledge of the world",
    "everything outside the company",
    "public websites and encyclopedias",
    "facts about the world",
    "open web pages",
    "common knowledge, news and facts",
];
/// Code names of search tools. Half of the names are drawn from here, the others are made of syllables.
const CODES: [&str; 60] = [
    "orion", "vega", "hydra", "juno", "ceres", "pallas", "hermes", "athena", "odin", "freya", "loki", "thor", "cedar",
    "maple", "willow", "birch", "amber", "opal", "ruby", "topaz", "onyx", "jade", "coral", "pearl", "heron", "robin",
    "finch", "otter", "beaver", "panther", "comet", "meteor", "pulsar", "quasar", "nova", "titan", "rhea", "dione",
    "mimas", "ariel", "delphi", "sphinx", "argus", "echo", "iris", "helios", "selene", "castor", "pollux", "rigel",
    "harbor", "beacon", "anchor", "compass", "lantern", "prism", "cobalt", "indigo", "saffron", "sienna",
];

/// What a list of tools holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing: the chats are about repeating words.
    NoTool,
    OneTool,
    TwoTools,
    All,
    /// Mostly which of two search tools to ask, and both where they do not say; names are known words.
    Sides,
    /// Search tools that do not say over what; most names are made up.
    Names,
}

/// Draws the tools of one group of rows, in random order, no name twice.
pub fn draw_tools(pool: &Pool, stage: Stage, rng: &mut ChaCha8Rng) -> Vec<Tool> {
    loop {
        let mut tools = match (stage, rng.random_range(0..100)) {
            (Stage::NoTool, _) => Vec::new(),
            (Stage::Names, _) => unsaid(pool, stage, rng),
            (Stage::Sides, 0..50) => plain_sides(pool, rng),
            (Stage::Sides, 50..65) => sides(pool, stage, rng),
            (Stage::Sides, 65..82) => unsaid(pool, stage, rng),
            (Stage::OneTool, 0..50) => topics(pool, (1, 1), stage, rng),
            (Stage::OneTool, _) => actions(pool, 1, 1, rng),
            (Stage::TwoTools, 48..70) => actions(pool, 2, 2, rng),
            (Stage::TwoTools, 24..48) => topics(pool, (2, 2), stage, rng),
            (_, 0..24) => sides(pool, stage, rng),
            (_, 24..48) => topics(pool, (2, 3), stage, rng),
            (_, 48..70) => actions(pool, 1, 3, rng),
            (_, 70..84) => [topics(pool, (1, 2), stage, rng), actions(pool, 1, 2, rng)].into_iter().flatten().collect(),
            _ => unsaid(pool, stage, rng),
        };
        tools.shuffle(rng);
        let distinct = tools.iter().enumerate().all(|(i, tool)| tools[..i].iter().all(|other| other.name != tool.name));
        if distinct && !overlapping(pool, &tools) {
            return tools;
        }
    }
}

/// Two tools, one for the workplace and one for the world; sometimes an action beside them.
fn sides(pool: &Pool, stage: Stage, rng: &mut ChaCha8Rng) -> Vec<Tool> {
    let mut tools = Vec::new();
    for (side, everything) in [(Side::Work, WORK), (Side::World, WORLD)] {
        let mut covered = pool.side(side);
        covered.shuffle(rng);
        if rng.random_bool(if stage == Stage::Sides { 0.7 } else { 0.5 }) {
            let noun =
                if side == Side::Work { ["intranet", "internal", "company"] } else { ["internet", "public", "web"] };
            let noun = noun.choose(rng).expect("nouns").to_string();
            let about = everything.choose(rng).expect("descriptions").to_string();
            tools.push(search_tool((&noun, &about), covered, stage, rng));
        } else {
            covered.truncate(rng.random_range(3..=5));
            tools.push(topic_tool(pool, covered, stage, rng));
        }
    }
    if rng.random_bool(0.2) {
        tools.extend(actions(pool, 1, 1, rng));
    }
    tools
}

/// One of a few pairs of search tools, always of the same names, one for the workplace and one for the world: what it
/// takes to tell the two apart is learned here, without a name to copy.
fn plain_sides(pool: &Pool, rng: &mut ChaCha8Rng) -> Vec<Tool> {
    const PAIRS: [[(&str, &str); 2]; 4] = [
        [("search_internal", "Search internal company documents."), ("search_public", "Search public information.")],
        [
            ("ask_company", "Answers questions about the workplace."),
            ("ask_world", "Answers questions about the world."),
        ],
        [("find_intranet", "Searches the company intranet."), ("find_internet", "Searches the internet.")],
        [
            ("lookup_office", "Looks up office rules, people and projects."),
            ("lookup_web", "Looks up facts on the web."),
        ],
    ];
    let pair = PAIRS.choose(rng).expect("pairs");
    let parameters = json!({
        "type": "object",
        "properties": { "query": { "type": "string", "description": "query string" } },
        "required": ["query"]
    });
    [Side::Work, Side::World]
        .into_iter()
        .zip(pair)
        .map(|(side, (name, description))| Tool {
            declaration: declaration(name, description, parameters.clone()),
            name: name.to_string(),
            covers: Covers::Topics(pool.side(side), "query".to_string()),
        })
        .collect()
}

/// `least..=most` search tools over one or two topics each, no topic twice.
fn topics(pool: &Pool, (least, most): (usize, usize), stage: Stage, rng: &mut ChaCha8Rng) -> Vec<Tool> {
    let mut all: Vec<usize> = (0..pool.topics.len()).collect();
    all.shuffle(rng);
    let count = rng.random_range(least..=most);
    (0..count)
        .map(|_| {
            let covered = all.split_off(all.len() - rng.random_range(1..=2));
            topic_tool(pool, covered, stage, rng)
        })
        .collect()
}

/// A search tool whose description names each of its topics.
fn topic_tool(pool: &Pool, covered: Vec<usize>, stage: Stage, rng: &mut ChaCha8Rng) -> Tool {
    let about: Vec<&str> =
        covered.iter().map(|&i| pool.topics[i].about.choose(rng).expect("descriptions").as_str()).collect();
    let about = match about.split_last() {
        Some((last, [])) => last.to_string(),
        Some((last, rest)) => format!("{} and {last}", rest.join("; ")),
        None => String::new(),
    };
    let noun = pool.topics[covered[0]].nouns.choose(rng).expect("nouns").clone();
    search_tool((&noun, &about), covered, stage, rng)
}

/// A search tool with a telling name (from `noun`) or a code name.
fn search_tool((noun, about): (&str, &str), covered: Vec<usize>, stage: Stage, rng: &mut ChaCha8Rng) -> Tool {
    let code = code_name(stage, rng);
    let name = tool_name(if rng.random_bool(0.5) { noun } else { &code }, rng);
    let title = title(&code);
    let description = match rng.random_range(0..7) {
        0 => format!("Search {about}."),
        1 => format!("Look up {about}."),
        2 => format!("Find information about {about}."),
        3 => format!("Answers questions about {about}."),
        4 if name.contains(&code) => format!("Search {title}: {about}."),
        5 if name.contains(&code) => format!("{title} knows {about}."),
        _ => format!("Searches {about}."),
    };
    let (parameter, parameters) = query_parameters(rng);
    Tool { declaration: declaration(&name, &description, parameters), name, covers: Covers::Topics(covered, parameter) }
}

/// Two or three search tools whose names and descriptions do not say what they cover.
fn unsaid(pool: &Pool, stage: Stage, rng: &mut ChaCha8Rng) -> Vec<Tool> {
    let count = if rng.random_bool(0.85) { 2 } else { 3 };
    let form = rng.random_range(0..6);
    let (verb_first, verb) = (rng.random_bool(0.7), *VERBS.choose(rng).expect("verbs"));
    let (parameter, parameters) = query_parameters(rng);
    let mut tools: Vec<Tool> = (0..count)
        .map(|_| {
            let code = code_name(stage, rng);
            let title = title(&code);
            let name = if verb_first { format!("{verb}_{code}") } else { format!("{code}_search") };
            let description = match form {
                0 => format!("Search the {title} collection."),
                1 => format!("Search {title}."),
                2 => format!("Looks things up in {title}."),
                3 => format!("Query the {title} archive."),
                4 => format!("Finds entries in the {title} catalog."),
                _ => "A search service.".to_string(),
            };
            Tool {
                declaration: declaration(&name, &description, parameters.clone()),
                name,
                covers: Covers::Unsaid(parameter.clone()),
            }
        })
        .collect();
    if rng.random_bool(0.2) {
        tools.extend(actions(pool, 1, 1, rng));
    }
    tools
}

/// `least..=most` different actions.
fn actions(pool: &Pool, least: usize, most: usize, rng: &mut ChaCha8Rng) -> Vec<Tool> {
    let mut all: Vec<usize> = (0..pool.actions.len()).collect();
    all.shuffle(rng);
    all.truncate(rng.random_range(least..=most));
    all.into_iter().map(|i| action_tool(pool, i, rng)).collect()
}

fn action_tool(pool: &Pool, index: usize, rng: &mut ChaCha8Rng) -> Tool {
    let action = &pool.actions[index];
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, declared) in &action.parameters {
        let (kind, description) = declared.split_once(": ").expect("a parameter is `type: description`");
        let property = match kind {
            "string" | "integer" | "boolean" => json!({ "type": kind, "description": description }),
            words => {
                json!({ "type": "string", "description": description, "enum": words.split('|').collect::<Vec<_>>() })
            }
        };
        properties.insert(name.clone(), property);
        let marks = [format!("[{name}:"), format!("[{name}=")];
        if action.asks.iter().all(|ask| marks.iter().any(|mark| ask.contains(mark))) {
            required.push(name.clone());
        }
    }
    let name = action.names.choose(rng).expect("names").clone();
    let description = action.about.choose(rng).expect("descriptions");
    let parameters = json!({ "type": "object", "properties": properties, "required": required });
    Tool { declaration: declaration(&name, description, parameters), name, covers: Covers::Action(index) }
}

/// Whether a search tool of the list could do what an action of the list does.
fn overlapping(pool: &Pool, tools: &[Tool]) -> bool {
    let topics: Vec<usize> = tools.iter().flat_map(|tool| tool.topics()).copied().collect();
    tools.iter().any(|tool| match tool.covers {
        Covers::Action(action) => near(pool, action, &topics),
        _ => false,
    })
}

/// Whether one of `topics` is declared near `action`.
pub fn near(pool: &Pool, action: usize, topics: &[usize]) -> bool {
    topics.iter().any(|&i| pool.actions[action].near.contains(&pool.topics[i].nouns[0]))
}

impl Tool {
    /// Topics this tool says it covers.
    pub fn topics(&self) -> &[usize] {
        match &self.covers {
            Covers::Topics(topics, _) => topics,
            _ => &[],
        }
    }

    /// The action this tool does, if it acts.
    pub fn action(&self) -> Option<usize> {
        match self.covers {
            Covers::Action(action) => Some(action),
            _ => None,
        }
    }
}

fn tool_name(noun: &str, rng: &mut ChaCha8Rng) -> String {
    match rng.random_range(0..10) {
        0..7 => format!("{}_{noun}", VERBS.choose(rng).expect("verbs")),
        7..9 => format!("{noun}_search"),
        _ => noun.to_string(),
    }
}

/// A name that means nothing, lower case.
fn code_name(stage: Stage, rng: &mut ChaCha8Rng) -> String {
    let known = match stage {
        Stage::Sides => 1.0,
        Stage::Names => 0.2,
        _ => 0.5,
    };
    if rng.random_bool(known) {
        return CODES.choose(rng).expect("code names").to_string();
    }
    const ONSETS: [&str; 18] =
        ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "tr", "st", "kl"];
    const VOWELS: [&str; 7] = ["a", "e", "i", "o", "u", "ia", "eo"];
    const CODAS: [&str; 7] = ["", "", "n", "r", "s", "x", "l"];
    let syllables = rng.random_range(2..=3);
    (0..syllables)
        .map(|_| [&ONSETS[..], &VOWELS[..], &CODAS[..]].map(|part| *part.choose(rng).expect("letters")).concat())
        .collect()
}

fn title(code: &str) -> String {
    code[..1].to_uppercase() + &code[1..]
}

fn query_parameters(rng: &mut ChaCha8Rng) -> (String, Value) {
    let (name, description) = *QUERY.choose(rng).expect("query parameters");
    let property = json!({ "type": "string", "description": description });
    (name.to_string(), json!({ "type": "object", "properties": { name: property }, "required": [name] }))
}

fn declaration(name: &str, description: &str, parameters: Value) -> Value {
    json!({ "type": "function", "function": { "name": name, "description": description, "parameters": parameters } })
}
