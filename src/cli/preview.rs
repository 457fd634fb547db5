//! `engine preview`: one row as the model sees it, the scored tokens marked.

use std::io::IsTerminal;

use crate::chat::preview::preview;
use crate::chat::tokenizer::ChatTokenizer;
use crate::cli::args::PreviewArgs;
use crate::cli::loading::{default_loss, loss_on, row_options};
use crate::data::dataset::load_rows;
use crate::err;
use crate::error::Result;
use crate::io::source::resolve_model;

pub fn run(args: &PreviewArgs) -> Result<()> {
    let rows = load_rows(&args.dataset, &row_options(&args.rows)?)?;
    let row = rows
        .get(args.row as usize - 1)
        .ok_or_else(|| err!("there is no row {}: `{}` has {} rows", args.row, args.dataset, rows.len()))?;
    let tokenizer = ChatTokenizer::load(resolve_model(&args.model)?.folder())?;
    let loss = loss_on(&args.rows)?.unwrap_or_else(|| default_loss(row));
    let example = tokenizer.example(row, loss)?;
    println!("{}", preview(&example, &tokenizer, std::io::stdout().is_terminal()));
    Ok(())
}
