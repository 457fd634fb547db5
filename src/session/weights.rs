//! Reading the weights of a checkpoint.

use half::bf16;

use super::adapter_source::AdapterSource;
use super::devices::ComputeDevice;
use crate::device::{DType, Purpose, Tensor, room};
use crate::error::{Kind, Result};
use crate::io::source::ModelSource;
use crate::model::gemma3::Gemma3;
use crate::model::gemma3::adapter::merge;
use crate::model::gemma3::config::Gemma3Config;
use crate::model::gemma3::table::{parameter_count, parameter_specs};

/// What weights are read with: of a checkpoint, which may not be there yet.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub source: &'a ModelSource,
    pub config: &'a Gemma3Config,
    pub adapter: Option<&'a AdapterSource>,
}

impl Weights<'_> {
    /// The model in f32, `change`d as it is read.
    pub fn read(self, on: &ComputeDevice, change: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<Gemma3> {
        let mut weights = self.room(on, DType::F32)?;
        let read = |values: &mut [f32]| {
            self.source.load_into(self.config, values)?;
            self.merge(values)?;
            change(values)
        };
        weights.fill_with(read).map_err(|error| error.or_kind(Kind::Model))?;
        Gemma3::new(self.config.clone(), weights)
    }

    /// The model to answer with: nothing but what ops compute in is kept.
    pub fn load_frozen(self, on: &ComputeDevice) -> Result<Gemma3> {
        if on.dtype != DType::Bf16 || self.adapter.is_some() {
            return self.read(on, |_| Ok(()))?.frozen_in(on.dtype);
        }
        let mut weights = self.room(on, DType::Bf16)?;
        let read = |values: &mut [bf16]| self.source.load_rounded(self.config, values);
        weights.fill_with(read).map_err(|error| error.or_kind(Kind::Model))?;
        Gemma3::new(self.config.clone(), weights)?.frozen_in(DType::Bf16)
    }

    /// Adds the adapter, if there is one, to weights in memory.
    pub fn merge(self, values: &mut [f32]) -> Result<()> {
        let Some(adapter) = self.adapter else { return Ok(()) };
        let mut of_adapter = room::zeroed(adapter.len(self.config)?, "the adapter")?;
        adapter.read(self.config, values, &mut of_adapter)?;
        merge(self.config, &adapter.config.lora, &of_adapter, values)
    }

    /// Memory for the weights, whose files are there.
    fn room(self, on: &ComputeDevice, dtype: DType) -> Result<Tensor> {
        self.source.check(self.config).map_err(|error| error.or_kind(Kind::Model))?;
        let len = parameter_count(&parameter_specs(self.config));
        Tensor::empty(&on.device.of(Purpose::Weights), &[len], dtype)
    }
}
