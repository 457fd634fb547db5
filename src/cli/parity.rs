//! `engine parity`: where another template makes other tokens of a dataset than the model's own.

use serde::Serialize;
use serde_json::{Value, json};

use crate::chat::preview::shown;
use crate::chat::tokenizer::ChatTokenizer;
use crate::cli::args::{LogFormat, ParityArgs};
use crate::cli::numbers::counted;
use crate::cli::options::load;
use crate::cli::out::{line, print, result};
use crate::err;
use crate::error::{Kind, Result, printable};
use crate::session::parity::{Compared, Part, Step, compare};

/// Prompts that are shown without `--all`, and conversations.
const MOST_SHOWN: usize = 3;
/// Lines that are shown of each.
const MOST_LINES: usize = 60;

/// How many texts are equal.
#[derive(Serialize)]
struct Count {
    equal: usize,
    total: usize,
}

pub fn run(args: &ParityArgs) -> Result<()> {
    let model = args.rows.tokenizer(&args.model)?;
    let other = args.rows.tokenizer(&args.model)?.with_template(&args.against);
    let other = other.map_err(|error| error.or_kind(Kind::Usage))?;
    let rows = load(&args.dataset, &args.rows.row_options()?)?;
    let compared = compare(&model, &other, &rows)?;
    if compared.is_empty() {
        return Err(err!("`{}` has no chat: plain text has no template", args.dataset).of_kind(Kind::Data));
    }
    let counts = [Part::Prompt, Part::Conversation].map(|part| Count::new(&compared, part));
    match args.log_format {
        LogFormat::Text => print(&(shown_texts(&compared, &model, args) + &counted_texts(&counts)))?,
        LogFormat::Json => {
            let different = compared.iter().filter(|text| !text.is_equal());
            different.map(|text| record(text, &model)).try_for_each(|record| line(&record))?;
            result(&json!({"prompts": counts[0], "conversations": counts[1]}))?;
        }
    }
    let different = compared.iter().filter(|text| !text.is_equal()).count();
    if different == 0 {
        return Ok(());
    }
    Err(err!("{different} of {} differ", counted(compared.len(), "text")).of_kind(Kind::Data).hint(
        "serve the model with its own template, `chat_template.jinja` of its folder, or train with the other one, `--chat-template-path`",
    ))
}

impl Count {
    fn new(compared: &[Compared], part: Part) -> Self {
        let of = || compared.iter().filter(|text| text.part == part);
        Self { equal: of().filter(|text| text.is_equal()).count(), total: of().count() }
    }
}

fn counted_texts([prompts, conversations]: &[Count; 2]) -> String {
    let line = |name: &str, Count { equal, total }: &Count| format!("{name}: {equal} of {total} equal\n");
    line("prompts", prompts) + &line("conversations", conversations)
}

/// What differs, for people.
fn shown_texts(compared: &[Compared], tokenizer: &ChatTokenizer, args: &ParityArgs) -> String {
    let mut out = String::new();
    for (part, name) in [(Part::Prompt, "prompt"), (Part::Conversation, "conversation")] {
        let different: Vec<_> = compared.iter().filter(|text| text.part == part && !text.is_equal()).collect();
        let most = if args.all { different.len() } else { MOST_SHOWN };
        for text in different.iter().take(most) {
            let lines = lines(text, tokenizer);
            let most = if args.all { lines.len() } else { MOST_LINES };
            out += &format!("{}, {name}: {}\n", printable(&text.origin), lengths(text));
            out.extend(lines.iter().take(most).map(String::as_str));
            if lines.len() > most {
                out += &format!("{} more lines; `--all` shows them\n", lines.len() - most);
            }
            out.push('\n');
        }
        if different.len() > most {
            let more = counted(different.len() - most, &format!("more {name}"));
            out += &format!("{more} with differences; `--all` shows them\n\n");
        }
    }
    out
}

fn lengths(text: &Compared) -> String {
    let model = counted(text.model.len(), "token");
    match &text.other {
        Ok(other) => format!("{model} by the model's template (-), {} by the other one (+)", other.len()),
        Err(why) => format!("{model} by the model's template; the other one refuses: {}", printable(why)),
    }
}

/// A line for each token of the differences and what stands round them: sign, index on either side, id, text.
fn lines(text: &Compared, tokenizer: &ChatTokenizer) -> Vec<String> {
    let Ok(other) = &text.other else { return Vec::new() };
    let mut lines = vec![format!("{:>9} {:>7} {:>7}  text\n", "model", "other", "id")];
    let differences = text.differences();
    for (i, steps) in differences.iter().enumerate() {
        if i > 0 {
            lines.push("      ...\n".to_owned());
        }
        for step in steps {
            match step {
                Step::Equal { model, other: theirs } => {
                    lines.extend(model.clone().zip(theirs.clone()).map(|(m, o)| {
                        let id = text.model[m];
                        format!("  {m:>7} {o:>7} {id:>7}  {}\n", shown(id, tokenizer))
                    }))
                }
                Step::Differs { model, other: theirs } => {
                    lines.extend(model.clone().map(|m| {
                        let id = text.model[m];
                        format!("- {m:>7} {:>7} {id:>7}  {}\n", "", shown(id, tokenizer))
                    }));
                    lines.extend(theirs.clone().map(|o| {
                        let id = other[o];
                        format!("+ {:>7} {o:>7} {id:>7}  {}\n", "", shown(id, tokenizer))
                    }));
                }
            }
        }
    }
    lines
}

/// What differs in a text, for programs.
fn record(text: &Compared, tokenizer: &ChatTokenizer) -> Value {
    let (other, refused) = match &text.other {
        Ok(other) => (other.as_slice(), None),
        Err(why) => (&[][..], Some(why)),
    };
    let tokens =
        |ids: &[u32]| -> Value { ids.iter().map(|id| json!({"id": id, "text": tokenizer.token_text(*id)})).collect() };
    let steps = text.differences().into_iter().flatten();
    let differences: Vec<Value> = steps
        .filter_map(|step| match step {
            Step::Equal { .. } => None,
            Step::Differs { model, other: theirs } => Some(json!({
                "model": {"start": model.start, "tokens": tokens(&text.model[model])},
                "other": {"start": theirs.start, "tokens": tokens(&other[theirs])},
            })),
        })
        .collect();
    json!({
        "type": "difference", "part": text.part, "place": text.origin, "refused": refused,
        "model_tokens": text.model.len(), "other_tokens": other.len(), "differences": differences,
    })
}
