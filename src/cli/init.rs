//! `engine init`: a model with random weights, to train from nothing.

use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use crate::chat::template::FUNCTIONGEMMA_TEMPLATE;
use crate::cli::args::InitArgs;
use crate::cli::options::existing;
use crate::cli::out::{print, say};
use crate::device::room;
use crate::error::{Context, Result};
use crate::io::folder::OutputFolder;
use crate::io::model_files::{SavedModel, TokenizerFiles};
use crate::model::gemma3::config::Gemma3Config;
use crate::model::gemma3::table::{ParamKind, parameter_count, parameter_specs, parameters};
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
    let flat = random_weights(&config, args.seed)?;
    let template = std::fs::read_to_string(tokenizer.join("chat_template.jinja"));
    let mut folder = OutputFolder::claim(&args.output, existing)?;
    let generation_config = GenerationConfig::load(tokenizer, &config)?;
    let model = SavedModel {
        tokenizer: &files,
        config: &config,
        generation_config: &generation_config,
        flat: &flat,
        dtype: args.save_dtype.into(),
        adapter: None,
        chat_template: Some(template.as_deref().unwrap_or(FUNCTIONGEMMA_TEMPLATE)),
    };
    folder.save_model(&model, &[])?.warning.iter().for_each(|warning| say(&warning.warning()));
    print(&format!("{}\n", folder.path().display()))
}

/// As transformers initialises Gemma 3: matrices normal with `initializer_range` (0.02), norms 0 (they multiply by 1 + w).
fn random_weights(config: &Gemma3Config, seed: u64) -> Result<Vec<f32>> {
    let deviation = config.to_value("float32")["initializer_range"].as_f64().unwrap_or(0.02);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut flat = room::zeroed(parameter_count(&parameter_specs(config)), "the weights")?;
    let mut rest = flat.as_mut_slice();
    for parameter in parameters(config) {
        let mut draw = || match parameter.kind {
            ParamKind::Matrix => (deviation * rng.sample::<f64, _>(StandardNormal)) as f32,
            ParamKind::Norm => 0.0,
        };
        let (values, tail) = rest.split_at_mut(parameter.spec.len());
        values.iter_mut().for_each(|value| *value = draw());
        rest = tail;
    }
    Ok(flat)
}
