//! `engine train`: score, train with evaluation and checkpoints, save, score again; once, or with several seeds.

use crate::cli::args::{LogFormat, TrainArgs};
use crate::cli::out::{print, result, say};
use crate::error::Result;
use crate::io::run_files::PAGE;

mod job;
mod profile;
mod scores;
mod seeds;
mod steps;

use job::{Summary, once};

pub fn run(args: &TrainArgs) -> Result<()> {
    if args.seeds > 1 {
        return seeds::run(args, args.seeds);
    }
    let Some(summary) = once(args, &mut None)? else { return Ok(()) };
    match (args.log_format, &summary.pushed) {
        (LogFormat::Json, _) => result(&summary),
        (LogFormat::Text, Some(page)) => print(&format!("{page}\n")),
        (LogFormat::Text, None) => {
            say(&next_steps(args, &summary));
            Ok(())
        }
    }
}

/// What there is now, and what can be done with it.
fn next_steps(args: &TrainArgs, summary: &Summary) -> String {
    let place = summary.output_dir.display();
    let page = if summary.output_dir.join(PAGE).exists() {
        format!("`{place}/{PAGE}` shows the run\n")
    } else {
        String::new()
    };
    let tools = args.rows.tools.as_ref().map(|path| format!(" --tools {}", path.display())).unwrap_or_default();
    let model = match summary.is_adapter {
        true => format!("{} --adapter {place}", args.model.model),
        false => place.to_string(),
    };
    format!("\n{page}try it: engine generate --model {model}{tools} --chat")
}
