//! `engine generate`: one answer, control tokens and all, to stdout.

use serde_json::Value;

use crate::chat::tokenizer::Prompt;
use crate::cli::args::{GenerateArgs, GenerationArgs};
use crate::cli::options::explain_device;
use crate::cli::out::{print, say};
use crate::data::tools::load_tools;
use crate::error::{Error, Result, printable};
use crate::generate::generate;
use crate::model::gemma3::Gemma3;
use crate::session::Checkpoint;
use crate::session::conversation::Conversation;

pub fn run(args: &GenerateArgs) -> Result<()> {
    let Some(text) = &args.prompt else {
        return Err(Error::usage("there is nothing to answer")
            .hint("give `--prompt TEXT`, or `--chat` for a conversation at the terminal"));
    };
    let device = args.model.open_device()?;
    let mut conversation = Conversation::new(tools(args)?, args.system.as_deref());
    conversation.say(text);
    let (checkpoint, model) = args.model.open_frozen(&device)?;
    let prompt = conversation.prompt(&checkpoint)?;
    explain_device(&device);
    print(&format!("{}\n", printable(&answer(&model, &checkpoint, &prompt, &args.generation)?)))
}

/// The declarations of the tools that the model may call.
pub fn tools(args: &GenerateArgs) -> Result<Vec<Value>> {
    let (tools, warnings) = match &args.tools {
        Some(path) => load_tools(path)?,
        None => Default::default(),
    };
    warnings.iter().for_each(|w| say(&format!("warning: {}", printable(w))));
    Ok(tools)
}

/// The model's answer, control tokens and all.
pub fn answer(model: &Gemma3, checkpoint: &Checkpoint, prompt: &Prompt, args: &GenerationArgs) -> Result<String> {
    let options = checkpoint.generate_options(&args.options());
    let outputs = generate(model, &[&prompt.ids], &options, |_| Ok(()))?;
    if options.was_cut(&outputs[0]) {
        say(&format!("the answer was cut after {} tokens: `--max-new-tokens` allows more", outputs[0].len()));
    }
    Ok(checkpoint.tokenizer.decode(&outputs[0]))
}
