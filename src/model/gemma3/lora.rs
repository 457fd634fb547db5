//! What LoRA trains, by the names and defaults of peft's `LoraConfig`, and the table of its parameters.

use super::config::Gemma3Config;
use super::table::{EMBEDDING, PRODUCTS, ParamKind, Parameter, parameters};
use crate::autograd::ParamSpec;
use crate::err;
use crate::error::{Error, Result};

/// What PEFT's files put before the name of a parameter.
const PREFIX: &str = "base_model.model.";
/// The name of the head, which is the embedding.
const HEAD: &str = "lm_head";
/// What every linear module of a layer is called in `target_modules`.
pub const ALL_LINEAR: &str = "all-linear";

/// The settings of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// R, `r` in PEFT
    pub rank: usize,
    pub alpha: f64,
    /// The part of an update's input that is left out at random in training.
    pub dropout: f64,
    /// Names of linear modules, or ends of them: `q_proj`, `layers.3.mlp.up_proj`.
    pub target_modules: Vec<String>,
    /// Updates are scaled by alpha / sqrt(R) in place of alpha / R.
    pub use_rslora: bool,
    /// Names of other modules that are trained whole.
    pub modules_to_save: Vec<String>,
}

impl Default for Lora {
    fn default() -> Self {
        let target_modules = ["q_proj", "v_proj"].map(str::to_owned).into();
        Self { rank: 8, alpha: 8.0, dropout: 0.0, target_modules, use_rslora: false, modules_to_save: Vec::new() }
    }
}

/// A linear module of a layer.
pub struct Linear {
    /// Its weight.
    pub parameter: Parameter,
    pub is_updated: bool,
}

impl Lora {
    /// What an update is multiplied by.
    pub fn scaling(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// What the result of training follows from, by the names of flags.
    pub fn settings(&self) -> Vec<(String, String)> {
        let settings = [
            ("lora-r", self.rank.to_string()),
            ("lora-alpha", self.alpha.to_string()),
            ("lora-dropout", self.dropout.to_string()),
            ("lora-target-modules", self.target_modules.join(",")),
            ("use-rslora", self.use_rslora.to_string()),
            ("modules-to-save", self.modules_to_save.join(",")),
        ];
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The same with names in the place of `all-linear`, and the head by the name of the embedding that it is.
    pub fn resolved(mut self) -> Self {
        self.modules_to_save.iter_mut().filter(|name| *name == HEAD).for_each(|name| *name = "embed_tokens".into());
        if self.target_modules.iter().any(|name| name == ALL_LINEAR) {
            let name = |module: &&str| module.rsplit('.').next().unwrap_or(module).to_owned();
            self.target_modules = PRODUCTS.iter().copied().flatten().map(name).collect();
        }
        self
    }

    /// The products of all layers, in order: the modules that each computes.
    pub fn products(&self, config: &Gemma3Config) -> Vec<Vec<Linear>> {
        let table = parameters(config);
        let linear = |layer: usize, module: &str| {
            let name = format!("model.layers.{layer}.{module}");
            let weight = format!("{name}.weight");
            let parameter = table.iter().find(|parameter| parameter.spec.name == weight);
            let is_updated = self.target_modules.iter().any(|target| is_named(&name, target));
            Linear { parameter: parameter.expect("every layer has them").clone(), is_updated }
        };
        let layers = (0..config.num_hidden_layers).flat_map(|layer| PRODUCTS.map(|modules| (layer, modules)));
        layers.map(|(layer, modules)| modules.iter().map(|module| linear(layer, module)).collect()).collect()
    }

    /// The parameters that are trained whole, in the order of the model's table.
    pub fn saved(&self, config: &Gemma3Config) -> Vec<Parameter> {
        let is_saved = |parameter: &Parameter| self.modules_to_save.iter().any(|name| is_end(parameter, name));
        parameters(config).into_iter().filter(is_saved).collect()
    }

    /// Whether the embedding, which is the head, is trained whole.
    pub fn saves_embedding(&self) -> bool {
        self.modules_to_save.iter().any(|name| module_of(EMBEDDING).ends_with(name.as_str()) || name == HEAD)
    }

    /// Every parameter of the adapter, by PEFT's names, in the order of the flat run: of each product first the matrices A of its
    /// modules, then their B, each starting where the one before it ends; then the modules that are trained whole.
    ///
    /// # Errors
    /// A name is of no module of this model, or of none that is trained in this way.
    pub fn specs(&self, config: &Gemma3Config) -> Result<Vec<ParamSpec>> {
        self.check(config)?;
        let mut specs = Vec::new();
        for modules in self.products(config) {
            let updated = || modules.iter().filter(|module| module.is_updated).map(|module| &module.parameter.spec);
            specs.extend(updated().map(|spec| ParamSpec::new(a_of(&spec.name), &[self.rank, spec.shape[1]])));
            specs.extend(updated().map(|spec| ParamSpec::new(b_of(&spec.name), &[spec.shape[0], self.rank])));
        }
        let saved = self.saved(config).into_iter();
        specs.extend(saved.map(|Parameter { spec, .. }| ParamSpec { name: whole_of(&spec.name), ..spec }));
        Ok(specs)
    }

    fn check(&self, config: &Gemma3Config) -> Result<()> {
        if self.rank == 0 || !self.alpha.is_finite() {
            return Err(err!("a LoRA of rank {} and alpha {}", self.rank, self.alpha)
                .hint("the rank is at least 1, alpha a number"));
        }
        let table = parameters(config);
        for name in &self.target_modules {
            let found = table.iter().find(|parameter| names(parameter, name));
            if !found.is_some_and(is_linear) {
                return Err(self.unknown("target module", name).hint(
                    "target modules are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj and down_proj, or all-linear",
                ));
            }
        }
        for name in &self.modules_to_save {
            let mut found = table.iter().filter(|parameter| is_end(parameter, name)).peekable();
            if found.peek().is_none() || found.any(is_linear) {
                return Err(self.unknown("module to save", name).hint(
                    "embed_tokens (or lm_head, which is the same) and norms can be trained whole; linear modules are \
                     target modules",
                ));
            }
        }
        let of_heads = |kind: &str| self.saved(config).iter().filter(|p| p.spec.name.contains(kind)).count();
        if of_heads("q_norm") != of_heads("k_norm") {
            return Err(err!("q_norm and k_norm can only be trained whole together").hint("name both, or neither"));
        }
        if self.target_modules.is_empty() && self.modules_to_save.is_empty() {
            return Err(err!("the adapter trains nothing").hint("name target modules, for example all-linear"));
        }
        Ok(())
    }

    fn unknown(&self, what: &str, name: &str) -> Error {
        err!("`{}` is no {what} of this model", name.escape_debug())
    }
}

/// PEFT's names of the two matrices of a weight's update.
pub fn a_of(weight: &str) -> String {
    format!("{PREFIX}{}.lora_A.weight", module_of(weight))
}

pub fn b_of(weight: &str) -> String {
    format!("{PREFIX}{}.lora_B.weight", module_of(weight))
}

/// PEFT's name of a parameter that is trained whole.
pub fn whole_of(weight: &str) -> String {
    format!("{PREFIX}{weight}")
}

fn module_of(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

/// As PEFT compares modules to save: by how their names end.
fn is_end(parameter: &Parameter, name: &str) -> bool {
    module_of(&parameter.spec.name).ends_with(name) || (name == HEAD && parameter.spec.name == EMBEDDING)
}

/// As PEFT compares target modules: the module's whole name, or a part of it behind a dot.
fn is_named(module: &str, name: &str) -> bool {
    module == name || module.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

fn names(parameter: &Parameter, name: &str) -> bool {
    is_named(module_of(&parameter.spec.name), name)
}

fn is_linear(parameter: &Parameter) -> bool {
    parameter.kind == ParamKind::Matrix && parameter.spec.name != EMBEDDING
}
