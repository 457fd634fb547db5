//! The files of an adapter, as PEFT writes and reads them: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::convert::Encoding;
use super::safetensors::{Header, check_tensor};
use super::weight_file::WeightFile;
use crate::autograd::ParamSpec;
use crate::error::{Context, Error, Kind, Result};
use crate::model::fields::{Fields, MAX_CONFIG, read_small};
use crate::model::gemma3::config::Gemma3Config;
use crate::model::gemma3::lora::{Lora, whole_of};
use crate::model::gemma3::table::EMBEDDING;
use crate::{bail, err};

/// The settings.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The weights. A folder with this file holds an adapter.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// PEFT's name of the head, in adapters that store it beside the embedding it is tied to.
const HEAD: &str = "base_model.model.lm_head.weight";
/// The largest rank that is taken: far above any use.
const MOST_RANK: usize = 1 << 16;

/// Fields of the config that are read.
const READ: [&str; 12] = [
    "peft_type",
    "task_type",
    "base_model_name_or_path",
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "modules_to_save",
    "bias",
    "use_rslora",
    "init_lora_weights",
    "ensure_weight_tying",
];
/// Fields that change nothing, whatever they say.
const WITHOUT_EFFECT: [&str; 6] =
    ["auto_mapping", "inference_mode", "megatron_core", "peft_version", "qalora_group_size", "revision"];
/// Ways to begin that leave the model as it is.
const BEGINNINGS: [&str; 3] = ["gaussian", "orthogonal", "eva"];

/// What `adapter_config.json` says.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    pub lora: Lora,
    /// The model that it was trained beside, as its user named it.
    pub base: Option<String>,
}

impl AdapterConfig {
    /// The config of an adapter.
    ///
    /// # Errors
    /// It is of no LoRA, lacks a field, or has an option that is not supported; the error names it.
    pub fn from_value(value: &Value) -> Result<Self> {
        let Some(map) = value.as_object() else { bail!("it is no JSON object") };
        let fields = Fields(map);
        let kind: String = fields.required("peft_type")?;
        if kind != "LORA" {
            return Err(unsupported("peft_type", &map["peft_type"]).hint("only LoRA adapters are read"));
        }
        check_options(map)?;
        let default = Lora::default();
        let lora = Lora {
            rank: fields.required("r")?,
            alpha: fields.optional("lora_alpha")?.unwrap_or(default.alpha),
            dropout: fields.optional("lora_dropout")?.unwrap_or(default.dropout),
            target_modules: match map.get("target_modules") {
                Some(Value::String(name)) if name != crate::model::gemma3::lora::ALL_LINEAR => {
                    return Err(unsupported("target_modules", &map["target_modules"])
                        .hint("only a list of names is read, or all-linear; not a pattern"));
                }
                Some(Value::String(name)) => vec![name.clone()],
                _ => fields.optional("target_modules")?.unwrap_or_default(),
            },
            use_rslora: fields.optional("use_rslora")?.unwrap_or_default(),
            modules_to_save: fields.optional("modules_to_save")?.unwrap_or_default(),
        };
        if lora.rank > MOST_RANK {
            bail!("`r` is {}: too large", lora.rank);
        }
        let lora = lora.resolved();
        if lora.saves_embedding() && fields.optional("ensure_weight_tying")? != Some(true) {
            return Err(err!("the embedding and the head are trained apart, which are one matrix here")
                .hint("train the adapter with `ensure_weight_tying=True`"));
        }
        Ok(Self { lora, base: fields.optional("base_model_name_or_path")? })
    }

    /// As PEFT reads it.
    pub fn to_value(&self) -> Value {
        let Lora { rank, alpha, dropout, target_modules, use_rslora, modules_to_save } = &self.lora;
        let whole = alpha.fract() == 0.0 && alpha.abs() < 1e15;
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base,
            "r": rank,
            "lora_alpha": if whole { json!(*alpha as i64) } else { json!(alpha) },
            "lora_dropout": dropout,
            "target_modules": target_modules,
            "modules_to_save": (!modules_to_save.is_empty()).then_some(modules_to_save),
            "bias": "none",
            "use_rslora": use_rslora,
            "use_dora": false,
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "inference_mode": true,
            "ensure_weight_tying": self.lora.saves_embedding(),
        })
    }
}

/// Refuses options that would make another model of the adapter.
fn check_options(map: &Map<String, Value>) -> Result<()> {
    let is_unset = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    let known = |name: &str| READ.contains(&name) || WITHOUT_EFFECT.contains(&name);
    if let Some((name, value)) = map.iter().find(|(name, value)| !known(name) && !is_unset(value)) {
        return Err(unsupported(name, value));
    }
    let is_one_of = |name: &str, values: &[&str]| match map.get(name) {
        Some(value) if !is_unset(value) => value.as_str().is_some_and(|value| values.contains(&value)),
        _ => true,
    };
    let begins = map.get("init_lora_weights");
    if !begins.is_none_or(Value::is_boolean) && !is_one_of("init_lora_weights", &BEGINNINGS) {
        return Err(unsupported("init_lora_weights", &map["init_lora_weights"])
            .hint("its base is a changed model; convert it to a plain LoRA with PEFT first"));
    }
    for (name, values) in [("bias", &["none"][..]), ("task_type", &["CAUSAL_LM"])] {
        if !is_one_of(name, values) {
            return Err(unsupported(name, &map[name]));
        }
    }
    Ok(())
}

fn unsupported(name: &str, value: &Value) -> Error {
    err!("`{}` of {} is not supported", name.escape_debug(), value.to_string().escape_debug())
        .hint("merge the adapter into its model with PEFT's `merge_and_unload`, and use that model")
}

/// An adapter on disk.
#[derive(Clone, Debug)]
pub struct AdapterFolder {
    path: PathBuf,
    pub config: AdapterConfig,
}

impl AdapterFolder {
    /// Reads the config of the adapter in `path`.
    ///
    /// # Errors
    /// There is none, or as [`AdapterConfig::from_value`]. Of kind [`Kind::Model`].
    pub fn open(path: &Path) -> Result<Self> {
        let open = || {
            let file = path.join(ADAPTER_CONFIG);
            if !file.is_file() {
                return Err(err!("`{}` is no adapter: it has no `{ADAPTER_CONFIG}`", path.display())
                    .hint("give the folder of an adapter of PEFT, or one that `engine train --lora-r` has made"));
            }
            let failed = || format!("cannot use `{}`", file.display());
            let value =
                read_small(&file, MAX_CONFIG).and_then(|text| serde_json::from_str(&text).context(|| "it is not JSON"));
            let config = AdapterConfig::from_value(&value.context(failed)?).context(failed)?;
            Ok(Self { path: path.to_owned(), config })
        };
        open().map_err(|error: Error| error.or_kind(Kind::Model))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the adapter is one of this model, by the header of its weights alone.
    ///
    /// # Errors
    /// A tensor is missing, unknown or of another shape, or the file is none. Of kind [`Kind::Model`].
    pub fn check(&self, model: &Gemma3Config) -> Result<()> {
        self.with(model, |_, _, _| Ok(()))
    }

    /// Reads the weights into `out`, laid out by [`Lora::specs`].
    ///
    /// # Errors
    /// As [`check`](Self::check), or an element is not finite.
    ///
    /// # Panics
    /// When `out` has another length.
    pub fn read_into(&self, model: &Gemma3Config, out: &mut [f32]) -> Result<()> {
        self.with(model, |file, specs, places| {
            let mut rest = out;
            for (spec, (place, encoding)) in specs.iter().zip(places) {
                let (values, tail) = rest.split_at_mut(spec.len());
                rest = tail;
                file.read_tensor(&spec.name, place.clone(), *encoding, values)?;
            }
            assert!(rest.is_empty(), "the buffer must hold exactly the adapter");
            Ok(())
        })
    }

    fn with(
        &self,
        model: &Gemma3Config,
        work: impl FnOnce(&WeightFile, &[ParamSpec], &[Place]) -> Result<()>,
    ) -> Result<()> {
        let path = self.path.join(ADAPTER_WEIGHTS);
        let run = || {
            let specs = self.config.lora.specs(model)?;
            if !path.is_file() {
                return Err(err!("there is no `{}`", path.display()).hint("only safetensors weights are read"));
            }
            let file = WeightFile::open(&path)?;
            let places = places(&file, &specs)?;
            work(&file, &specs, &places)
        };
        run().map_err(|error: Error| {
            let base = self.config.base.as_ref().map(|base| format!(" (its base is `{}`)", base.escape_debug()));
            let what = format!("cannot use the adapter `{}`{}", self.path.display(), base.unwrap_or_default());
            let hint = "the adapter must be whole, and go with the model that it was trained beside";
            let error = if error.advice().is_none() { error.hint(hint) } else { error };
            error.context(what).or_kind(Kind::Model)
        })
    }
}

/// Where a tensor lies in the file, and how it is stored.
type Place = (Range<u64>, Encoding);

/// Where the parameters lie.
fn places(file: &WeightFile, specs: &[ParamSpec]) -> Result<Vec<Place>> {
    let wanted: HashMap<&str, &ParamSpec> = specs.iter().map(|spec| (spec.name.as_str(), spec)).collect();
    let header = Header::read(file)?;
    let mut found: HashMap<&str, Place> = HashMap::new();
    let mut head = None;
    for (name, tensor) in header.tensors() {
        match wanted.get(name.as_str()) {
            Some(spec) => {
                let encoding = check_tensor(tensor, spec)?;
                found.insert(&spec.name, (header.place(tensor), encoding));
            }
            None if name == HEAD => head = Some(header.place(tensor)),
            None => {
                return Err(err!(
                    "tensor `{}` is not one that `{ADAPTER_CONFIG}` and the model ask for",
                    name.escape_debug()
                )
                .hint("give the model that the adapter was trained beside"));
            }
        }
    }
    if let Some(head) = head {
        let embedding = found.get(whole_of(EMBEDDING).as_str()).map(|(place, _)| place.clone());
        if !embedding.is_some_and(|embedding| file.same(embedding, head).unwrap_or(false)) {
            bail!("tensor `{HEAD}` differs from the embedding; only tied heads are supported");
        }
    }
    let place = |spec: &ParamSpec| {
        let missing = || err!("tensor `{}` {:?} is missing", spec.name, spec.shape);
        found.remove(spec.name.as_str()).ok_or_else(missing)
    };
    specs.iter().map(place).collect()
}
