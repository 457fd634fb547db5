//! An adapter: the parameters that LoRA trains beside a frozen model, how they begin, and how they become part of it.

use std::collections::HashMap;
use std::rc::Rc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::config::Gemma3Config;
use super::lora::{Linear, Lora, a_of, b_of, whole_of};
use super::table::{parameter_specs, parameters};
use crate::autograd::{Param, ParamHandle, ParamSpec, Params};
use crate::batch::inputs::DeviceArray;
use crate::device::{DType, Tensor};
use crate::error::Result;
use crate::ops::dropout::Dropout;
use crate::ops::lora::{Blocks, Module, Update};

/// An adapter of one model.
pub struct Adapter {
    pub lora: Lora,
    pub params: Params,
    /// By the name of the (first) weight that they are added to.
    updates: HashMap<String, Place>,
    /// By the name of the parameter in whose place they are.
    whole: HashMap<String, ParamHandle>,
}

/// Where the update of a product is.
struct Place {
    a: ParamHandle,
    b: ParamHandle,
    blocks: Rc<Blocks>,
    /// The number of the product among those of the model.
    number: u32,
}

impl Adapter {
    /// The adapter of `values`, laid out by [`Lora::specs`].
    ///
    /// # Errors
    /// As [`Lora::specs`], or the device is out of memory.
    pub fn new(config: &Gemma3Config, lora: Lora, values: Tensor) -> Result<Self> {
        let params = Params::new(&lora.specs(config)?, values)?;
        let mut updates = HashMap::new();
        for (number, modules) in lora.products(config).into_iter().enumerate() {
            let updated = modules.iter().filter(|module| module.is_updated).map(|module| &module.parameter.spec.name);
            let fused = |name: fn(&str) -> String| {
                let names: Vec<String> = updated.clone().map(|weight| name(weight)).collect();
                params.fused_handle(&names.iter().map(String::as_str).collect::<Vec<_>>())
            };
            if updated.clone().next().is_none() {
                continue;
            }
            let of = |linear: &Linear| Module { rows: linear.parameter.spec.shape[0], is_updated: linear.is_updated };
            let blocks = Blocks::new(params.device(), &modules.iter().map(of).collect::<Vec<_>>())?;
            let (a, b, blocks) = (fused(a_of), fused(b_of), Rc::new(blocks));
            let place = Place { a, b, blocks, number: number as u32 };
            updates.insert(modules[0].parameter.spec.name.clone(), place);
        }
        let saved = lora.saved(config).into_iter().map(|parameter| parameter.spec.name);
        let whole = saved.map(|name| (name.clone(), params.handle(&whole_of(&name)))).collect();
        Ok(Self { lora, params, updates, whole })
    }

    /// The same adapter, computing in `dtype` beside the master weights.
    pub fn computed_in(self, dtype: DType) -> Result<Self> {
        Ok(Self { params: self.params.computed_in(dtype)?, ..self })
    }

    /// What is added to the (fused) weight of this name, computed from all of its input, or with the key of a batch from what dropout
    /// leaves of it.
    pub fn update_of(&self, weight: &str, key: Option<&DeviceArray>) -> Option<Update> {
        let &Place { ref a, ref b, ref blocks, number } = self.updates.get(weight)?;
        let (a, b) = (self.params.at(a), self.params.at(b));
        let dropout = key.map(|key| Dropout { key: key.clone(), product: number, p: self.lora.dropout });
        Some(Update { a, b, blocks: blocks.clone(), scaling: self.lora.scaling(), dropout })
    }

    /// The parameter that is trained in the place of the model's one of this name.
    pub fn in_place_of(&self, name: &str) -> Option<Param> {
        self.whole.get(name).map(|handle| self.params.at(handle))
    }
}

/// How an adapter begins: A uniform within 1 / sqrt(columns), B zero, modules that are trained whole as they are. So the model is
/// the one without it at first. `model` are its weights, laid out as its table, `out` those of the adapter.
///
/// # Errors
/// As [`Lora::specs`].
pub fn begin(config: &Gemma3Config, lora: &Lora, seed: u64, model: &[f32], out: &mut [f32]) -> Result<()> {
    let (specs, table) = (lora.specs(config)?, parameter_specs(config));
    let known: HashMap<String, &[f32]> =
        parts(&table, model).map(|(spec, values)| (whole_of(&spec.name), values)).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut rest = out;
    for spec in &specs {
        let (values, tail) = rest.split_at_mut(spec.len());
        rest = tail;
        match known.get(&spec.name) {
            Some(whole) => values.copy_from_slice(whole),
            None if spec.name.ends_with(".lora_A.weight") => {
                let bound = 1.0 / (spec.shape[1] as f32).sqrt();
                values.iter_mut().for_each(|value| *value = rng.random_range(-bound..bound));
            }
            None => values.fill(0.0),
        }
    }
    Ok(())
}

/// Adds an adapter to the weights of its model: `weight += scaling * B A`, and modules that are trained whole are put in their
/// places. Both are laid out by their tables.
///
/// # Errors
/// As [`Lora::specs`].
pub fn merge(config: &Gemma3Config, lora: &Lora, adapter: &[f32], model: &mut [f32]) -> Result<()> {
    let specs = lora.specs(config)?;
    let known: HashMap<&str, &[f32]> = parts(&specs, adapter).map(|(spec, x)| (spec.name.as_str(), x)).collect();
    let scaling = lora.scaling() as f32;
    let mut rest = model;
    for parameter in parameters(config) {
        let (weight, tail) = rest.split_at_mut(parameter.spec.len());
        rest = tail;
        let name = &parameter.spec.name;
        if let Some(whole) = known.get(whole_of(name).as_str()) {
            weight.copy_from_slice(whole);
        } else if let (Some(a), Some(b)) = (known.get(a_of(name).as_str()), known.get(b_of(name).as_str())) {
            let (columns, rank) = (parameter.spec.shape[1], lora.rank);
            weight.par_chunks_mut(columns).zip(b.par_chunks(rank)).for_each(|(row, b)| add_row(row, b, a, scaling));
        }
    }
    Ok(())
}

/// row (I) += scaling * b (R) a (R, I)
fn add_row(row: &mut [f32], b: &[f32], a: &[f32], scaling: f32) {
    let mut sum = vec![0.0f32; row.len()];
    for (&b, a) in b.iter().zip(a.chunks(row.len())) {
        sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
    }
    row.iter_mut().zip(sum).for_each(|(weight, sum)| *weight += scaling * sum);
}

/// The parts of a flat run.
fn parts<'a>(specs: &'a [ParamSpec], mut flat: &'a [f32]) -> impl Iterator<Item = (&'a ParamSpec, &'a [f32])> {
    specs.iter().map(move |spec| {
        let (values, rest) = flat.split_at(spec.len());
        flat = rest;
        (spec, values)
    })
}
