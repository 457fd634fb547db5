//! `engine generate`: one answer, control tokens and all, to stdout.

use serde_json::{Value, json};

use crate::cli::args::GenerateArgs;
use crate::cli::options::explain_device;
use crate::cli::out::{print, say};
use crate::data::rows::{Origin, Row, RowOptions, TUTORIAL_SYSTEM};
use crate::data::tools::load_tools;
use crate::error::{Result, printable};
use crate::generate::generate;
use crate::session::Checkpoint;

pub fn run(args: &GenerateArgs) -> Result<()> {
    let device = args.model.open_device()?;
    let (tools, warnings) = match &args.tools {
        Some(path) => load_tools(path)?,
        None => Default::default(),
    };
    warnings.iter().for_each(|w| say(&format!("warning: {}", printable(w))));
    let checkpoint = Checkpoint::open(&args.model.model)?;
    let messages = messages(args, !tools.is_empty());
    let row = json!({"messages": messages, "tools": tools});
    let row = Row::from_json(row, Origin::new("--prompt", 1), &RowOptions::default())?;
    let prompt = checkpoint.tokenizer.prompt(&row)?;
    let model = checkpoint.load(&device)?;
    explain_device(&device);
    let outputs =
        generate(&model, &[&prompt.ids], &checkpoint.generate_options(&args.generation.options()), |_| Ok(()))?;
    if outputs[0].len() as u64 == args.generation.max_new_tokens {
        say(&format!("the answer was cut after {} tokens: `--max-new-tokens` allows more", outputs[0].len()));
    }
    print(&format!("{}\n", printable(&checkpoint.tokenizer.decode(&outputs[0]))))
}

fn messages(args: &GenerateArgs, has_tools: bool) -> Vec<Value> {
    let system = args.system.as_deref().or(has_tools.then_some(TUTORIAL_SYSTEM));
    let developer = system.map(|text| json!({"role": "developer", "content": text}));
    developer.into_iter().chain([json!({"role": "user", "content": args.prompt})]).collect()
}
