//! What a run is of: a run that goes on must be of the same model, rows and settings as the one that was stopped.

use std::collections::BTreeMap;

use half::bf16;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::batch::Example;
use crate::device::{DType, Tensor};
use crate::error::{Error, Result};
use crate::io::manifest::hex;
use crate::model::gemma3::Gemma3;
use crate::session::Generation;
use crate::train::options::TrainOptions;

/// Numbers that one task hashes.
const CHUNK: usize = 1 << 22;

/// Hashes of all that the result of a run follows from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// Of the model that the run began with, its shape and its weights.
    model: String,
    /// Of the rows as they are trained on: token ids, and which are scored.
    training_rows: String,
    evaluation_rows: String,
    /// The settings that change the result, by the names of their flags.
    settings: BTreeMap<String, String>,
    /// What it is computed on and in.
    device: String,
    dtype: String,
}

impl Identity {
    /// Of a run that is about to begin: `model` has the weights it begins with.
    ///
    /// # Errors
    /// The device fails.
    pub fn new(model: &Gemma3, train: &[Example], eval: &[Example], options: &TrainOptions) -> Result<Self> {
        let mut hash = Sha256::new();
        hash.update(model.config.to_value("float32").to_string());
        let mut settings = options.that_change_the_result();
        add_to(&mut hash, &model.params.masters()?)?;
        if let Some(adapter) = model.adapter() {
            add_to(&mut hash, &adapter.params.masters()?)?;
            settings.extend(adapter.lora.settings());
        }
        if let Some(rounding) = model.params.rounding() {
            settings.insert("qat".into(), rounding.coarsest().name().into());
        }
        Ok(Self {
            model: hex(&hash.finalize()),
            training_rows: hash_of(train),
            evaluation_rows: hash_of(eval),
            settings,
            device: model.device().driver().name(),
            dtype: format!("{:?}", model.params.dtype()),
        })
    }

    /// With how answers are generated, where the result follows from them.
    pub fn with_answers(mut self, options: &TrainOptions, generation: &Generation) -> Self {
        if options.ends_by_answers() {
            let Generation { max_new_tokens, do_sample, seed, .. } = generation;
            self.settings.insert("max-new-tokens".into(), max_new_tokens.to_string());
            self.settings.insert("do-sample".into(), do_sample.to_string());
            if *do_sample {
                // The run's own may be another (`--data-seed`).
                self.settings.insert("seed (of answers)".into(), seed.to_string());
            }
        }
        self
    }

    /// What it is computed on, for people.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Whether a run of `self` may go on as a run of `now`. What makes it differ in the last bits only is returned.
    ///
    /// # Errors
    /// A usage error that names every difference.
    pub fn check(&self, now: &Self) -> Result<Option<String>> {
        let mut different = Vec::new();
        let hashes = [
            ("the model", &self.model, &now.model),
            ("the training rows", &self.training_rows, &now.training_rows),
            ("the evaluation rows", &self.evaluation_rows, &now.evaluation_rows),
        ];
        different.extend(hashes.iter().filter(|(_, then, now)| then != now).map(|(what, ..)| format!("{what} differ")));
        let names: std::collections::BTreeSet<&String> = self.settings.keys().chain(now.settings.keys()).collect();
        for name in names {
            let value = |of: &Self| of.settings.get(name).map_or("unset", String::as_str).to_owned();
            let (then, now) = (value(self), value(now));
            if then != now {
                different.push(format!("`--{name}` was {then}, now it is {now}"));
            }
        }
        if !different.is_empty() {
            let text = format!("the checkpoint is of another run: {}", different.join("; "));
            return Err(Error::usage(text).hint("give the run the same model, rows and settings, or start a new one"));
        }
        let place = |of: &Self| format!("{} in {}", of.device, of.dtype.to_lowercase());
        let (then, now) = (place(self), place(now));
        Ok((then != now)
            .then(|| format!("the run was computed on {then} and goes on on {now}: its numbers will differ")))
    }
}

/// Adds numbers to a hash: those of bf16 as f32, which all devices can tell.
fn add_to(hash: &mut Sha256, values: &Tensor) -> Result<()> {
    let digest = |part: &[f32]| Sha256::digest(bytemuck::cast_slice(part));
    let parts: Vec<_> = match values.dtype() {
        DType::Bf16 => {
            let widened = |part: &[bf16]| digest(&part.iter().map(|x| x.to_f32()).collect::<Vec<_>>());
            values.read::<bf16>()?.par_chunks(CHUNK).map(widened).collect()
        }
        _ => values.read::<f32>()?.par_chunks(CHUNK).map(digest).collect(),
    };
    parts.iter().for_each(|part| hash.update(part));
    Ok(())
}

fn hash_of(examples: &[Example]) -> String {
    let mut hash = Sha256::new();
    for Example { ids, scored, .. } in examples {
        hash.update((ids.len() as u64).to_le_bytes());
        ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
        scored.iter().for_each(|scored| hash.update([u8::from(*scored)]));
    }
    hex(&hash.finalize())
}
