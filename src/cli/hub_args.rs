//! The flags of what is pushed to the hub.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};
use serde::Serialize;

/// `engine train`: whether the model is pushed when it is done.
#[derive(Clone, Debug, Default, Args, Serialize)]
#[command(next_help_heading = "Hub")]
pub struct HubArgs {
    /// Push the model to the hub when it is saved and scored, as `engine push` does
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    pub push_to_hub: bool,
    /// The model's name on the hub; it is created if there is none
    #[arg(long, value_name = "OWNER/NAME")]
    pub hub_model_id: Option<String>,
    /// Only its owners may see it; one that is there and public is refused
    #[arg(long, alias = "hub-private-repo", value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    pub hub_private: bool,
}

#[derive(Debug, Args)]
pub struct PushArgs {
    /// The folder of the model: what `engine train`, `engine import` or `engine init` has made
    pub folder: PathBuf,
    /// The model's name on the hub; it is created if there is none
    #[arg(long, value_name = "OWNER/NAME")]
    pub hub_model_id: String,
    /// Only its owners may see it; one that is there and public is refused
    #[arg(long, alias = "hub-private-repo")]
    pub hub_private: bool,
}
