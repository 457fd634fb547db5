//! `engine generate --chat`: a conversation at the terminal, or piped in line by line.

use std::io::{BufRead, IsTerminal, Write};

use crate::cli::args::GenerateArgs;
use crate::cli::generate::{answer, tools};
use crate::cli::options::explain_device;
use crate::cli::out::{print, say};
use crate::error::{Context, Result, printable};
use crate::session::conversation;
use crate::session::conversation::{Answer, Conversation};

const HELP: &str = "a line is what you say, or the response of the tool that was called (JSON or text); \
/new begins again, /exit or Ctrl-D ends";

pub fn run(args: &GenerateArgs) -> Result<()> {
    let device = args.model.open_device()?;
    let tools = tools(args)?;
    let (checkpoint, model) = args.model.open_frozen(&device)?;
    explain_device(&device);
    let new = || Conversation::new(tools.clone(), args.system.as_deref());
    let mut conversation = new();
    let mut lines = Lines::new(args.prompt.clone());
    while let Some(line) = lines.next(conversation.waits_for())? {
        match (line.trim(), conversation.waits_for()) {
            ("/exit" | "/quit", _) => break,
            ("/new", _) => {
                conversation = new();
                continue;
            }
            ("", None) => continue,
            (text, None) => conversation.say(text),
            (response, Some(_)) => conversation.respond(response),
        }
        if conversation.waits_for().is_none() {
            let prompt = conversation.prompt(&checkpoint)?;
            let output = answer(&model, &checkpoint, &prompt, &args.generation)?;
            print(&shown(&conversation.answer(&output)))?;
        }
    }
    Ok(())
}

/// An answer for a person: its text, its calls, what is wrong with them.
fn shown(answer: &conversation::Answer) -> String {
    let Answer { text, calls, faults } = answer;
    let mut lines: Vec<String> = Vec::new();
    if !text.is_empty() || calls.is_empty() {
        lines.push(printable(text).into());
    }
    for call in calls {
        let arguments = serde_json::to_string(&call.arguments).unwrap_or_default();
        lines.push(format!("call {} {}", printable(&call.name), printable(&arguments)));
    }
    lines.extend(faults.iter().map(|fault| format!("malformed call: {fault}")));
    lines.join("\n") + "\n"
}

/// What is typed or piped in, a line at a time.
struct Lines {
    first: Option<String>,
    is_terminal: bool,
}

impl Lines {
    fn new(first: Option<String>) -> Self {
        let is_terminal = std::io::stdin().is_terminal();
        if is_terminal {
            say(HELP);
        }
        Self { first, is_terminal }
    }

    /// The next line; None at the end. `tool`: whose response it is.
    fn next(&mut self, tool: Option<&str>) -> Result<Option<String>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        if self.is_terminal {
            let mut stderr = std::io::stderr().lock();
            let _ = write!(stderr, "{}> ", tool.map_or("you".into(), printable)).and_then(|()| stderr.flush());
        }
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line).context(|| "cannot read what is said")?;
        Ok((read > 0).then_some(line))
    }
}
