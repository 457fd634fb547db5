//! `engine init`: a model with random weights, to train from nothing.

use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use crate::chat::template::FUNCTIONGEMMA_TEMPLATE;
use crate::cli::args::InitArgs;
use crate::cli::options::existing;
use crate::cli::out::{print, say};
use crate::error::{Context, Result};
use crate::io::folder::OutputFolder;
use crate::io::model_files::{SavedModel, TokenizerFiles};
use crate::model::gemma3::config::Gemma3Config;
use crate::model::gemma3::table::{ParamKind, parameters};
use crate::model::generation_config::GenerationConfig;

pub fn run(args: &InitArgs) -> Result<()> {
    let shown = args.config.display();
    let text = std::fs::read_to_string(&args.config).context(|| format!("cannot read `{shown}`"))?;
    let value = serde_json::from_str(&text).context(|| format!("`{shown}` is not JSON"))?;
    let config = Gemma3Config::from_value(value).context(|| format!("cannot use `{shown}`"))?;
    let beside = args.config.parent().unwrap_or(Path::new(""));
    let tokenizer = args.tokenizer.as_deref().unwrap_or(beside);
    let existing = existing(args.overwrite_output_dir, false);
    OutputFolder::check(&args.output, existing)?;
    let files = TokenizerFiles::read(tokenizer)?;
    let flat = random_weights(&config, args.seed);
    let template = std::fs::read_to_string(tokenizer.join("chat_template.jinja"));
    let mut folder = OutputFolder::claim(&args.output, existing)?;
    let generation_config = GenerationConfig::load(tokenizer, &config)?;
    let model = SavedModel {
        tokenizer: &files,
        config: &config,
        generation_config: &generation_config,
        flat: &flat,
        dtype: args.save_dtype.into(),
        chat_template: Some(template.as_deref().unwrap_or(FUNCTIONGEMMA_TEMPLATE)),
    };
    folder.save_model(&model, &[])?.iter().for_each(|warning| say(&warning.warning()));
    print(&format!("{}\n", folder.path().display()))
}

/// As transformers initialises Gemma 3: matrices normal with `initializer_range` (0.02), norms 0 (they multiply by 1 + w).
fn random_weights(config: &Gemma3Config, seed: u64) -> Vec<f32> {
    let deviation = config.to_value("float32")["initializer_range"].as_f64().unwrap_or(0.02);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut flat = Vec::new();
    for parameter in parameters(config) {
        let mut draw = || match parameter.kind {
            ParamKind::Matrix => (deviation * rng.sample::<f64, _>(StandardNormal)) as f32,
            ParamKind::Norm => 0.0,
        };
        flat.extend((0..parameter.spec.len()).map(|_| draw()));
    }
    flat
}
