//! `engine preview`: one row as the model sees it, the scored tokens marked.

use std::io::IsTerminal;

use crate::chat::preview::{id_lines, preview};
use crate::cli::args::PreviewArgs;
use crate::cli::out::{print, say};
use crate::data::dataset::load_row;
use crate::data::length::MaxLength;
use crate::err;
use crate::error::{Kind, Result, printable};
use crate::session::examples::default_loss;

pub fn run(args: &PreviewArgs) -> Result<()> {
    let row = load_row(&args.dataset, args.row as usize, &args.rows.row_options()?)?;
    let tokenizer = args.rows.tokenizer(&args.model)?;
    let options = args.rows.example_options()?;
    let example = tokenizer.example(&row, options.loss.unwrap_or_else(|| default_loss(&row)))?;
    let limit = MaxLength { max_length: options.max_length, policy: options.overlong };
    let (examples, too_long) = limit.apply(vec![example]).map_err(|error| error.or_kind(Kind::Data))?;
    too_long.iter().for_each(|line| say(&printable(line)));
    let example = examples.first().ok_or_else(|| err!("internal: no example of the row is left"))?;
    let mut text = format!("{}\n", preview(example, &tokenizer, std::io::stdout().is_terminal()));
    if args.ids {
        text += &id_lines(example, &tokenizer);
    }
    print(&text)
}
