//! The part of the command line that says which rows come into a batch.

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};
use serde::Serialize;

use super::numbers::positive;
use crate::train::options::Grouping;

/// Which rows come into a batch.
#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "Data")]
pub struct BatchArgs {
    /// Batches of as many rows as have N tokens together, in place of --per-device-train-batch-size rows: tokens of beginnings
    /// that rows share count once, as they take memory once
    #[arg(long, value_name = "N", value_parser = positive, overrides_with = "per_device_train_batch_size")]
    pub max_tokens_per_batch: Option<u64>,
    /// Pack whole rows, best fit decreasing, --max-length tokens in a pack: a batch is --per-device-train-batch-size packs.
    /// Rows of a pack do not see each other
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    pub packing: bool,
    /// Bring rows that begin alike, such as those with the same tools, into one batch: shared beginnings are computed once
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    pub group_by_prefix: bool,
    /// Bring rows of similar length into one batch, as transformers does; it saves nothing here, where nothing is padded
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set, conflicts_with = "group_by_prefix")]
    pub group_by_length: bool,
}

impl BatchArgs {
    /// Which rows come into a batch together.
    pub fn grouping(&self) -> Grouping {
        match (self.group_by_prefix, self.group_by_length) {
            (true, _) => Grouping::Prefix,
            (false, true) => Grouping::Length,
            (false, false) => Grouping::None,
        }
    }
}
