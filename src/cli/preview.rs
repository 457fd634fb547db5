//! `engine preview`: one row as the model sees it, the scored tokens marked.

use std::io::IsTerminal;

use crate::chat::preview::{id_lines, preview};
use crate::chat::tokenizer::ChatTokenizer;
use crate::cli::args::PreviewArgs;
use crate::cli::out::print;
use crate::data::dataset::load_rows;
use crate::err;
use crate::error::{Kind, Result};
use crate::io::source::resolve_model;
use crate::session::examples::default_loss;

pub fn run(args: &PreviewArgs) -> Result<()> {
    let rows = load_rows(&args.dataset, &args.rows.row_options()?)?;
    let row = rows
        .get(args.row as usize - 1)
        .ok_or_else(|| err!("there is no row {}: `{}` has {} rows", args.row, args.dataset, rows.len()))
        .map_err(|error| error.of_kind(Kind::Data))?;
    let mut tokenizer = ChatTokenizer::load(resolve_model(&args.model)?.folder())?;
    if let Some(path) = &args.rows.chat_template_path {
        tokenizer = tokenizer.with_template(path)?;
    }
    let loss = args.rows.example_options()?.loss.unwrap_or_else(|| default_loss(row));
    let example = tokenizer.example(row, loss)?;
    let mut text = format!("{}\n", preview(&example, &tokenizer, std::io::stdout().is_terminal()));
    if args.ids {
        text += &id_lines(&example, &tokenizer);
    }
    print(&text)
}
