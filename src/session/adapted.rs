//! A checkpoint with an adapter beside it: the model with the adapter merged, or beside it, to be trained.

use std::path::Path;

use super::adapter_source::AdapterSource;
use super::checkpoint::{Checkpoint, has_texts};
use super::devices::ComputeDevice;
use crate::device::{DType, Device, Purpose, Tensor};
use crate::error::{Error, Kind, Result};
use crate::io::adapter_files::AdapterFolder;
use crate::io::gguf_type::GgufType;
use crate::model::gemma3::Gemma3;
use crate::model::gemma3::adapter::Adapter;
use crate::model::gemma3::lora::Lora;
use crate::model::gemma3::table::{parameter_count, parameter_specs, parameters};

impl Checkpoint {
    /// Finds the model, and the adapter in a folder that goes with it. Where the adapter has a tokenizer and a chat template of
    /// its own, they are used.
    ///
    /// # Errors
    /// As [`Checkpoint::open`]; the adapter cannot be used, or is of another model.
    pub fn open_adapted(model: &str, adapter: &Path) -> Result<Self> {
        let folder = AdapterFolder::open(adapter)?;
        let checkpoint = Self::open_with(model, Some(adapter).filter(|adapter| has_texts(adapter)))?;
        folder.check(&checkpoint.config)?;
        Ok(Self { adapter: Some(AdapterSource::of_folder(folder)), ..checkpoint })
    }

    /// With an adapter that begins as nothing. `base`: the model as its user named it.
    ///
    /// # Errors
    /// A usage error: `lora` names modules that this model does not have.
    pub fn with_lora(self, lora: Lora, base: &str, seed: u64) -> Result<Self> {
        let lora = lora.resolved();
        lora.specs(&self.config).map_err(|error| error.of_kind(Kind::Usage))?;
        Ok(Self { adapter: Some(AdapterSource::of_seed(lora, base, seed)), ..self })
    }

    /// Trained with weights that are rounded in the forward as a GGUF of type `kind` rounds them; gradients and updates are those of the
    /// weights as they are, which are saved.
    ///
    /// # Errors
    /// A usage error: there is an adapter, or no such rounding of these weights.
    pub fn with_qat(self, kind: GgufType) -> Result<Self> {
        if self.adapter.is_some() {
            return Err(Error::usage("an adapter cannot be trained with rounded weights (`--qat`)")
                .hint("merge it with `engine merge`, and train the model that comes of it with `--qat`"));
        }
        kind.block_formats(&parameters(&self.config)).map_err(|error| error.of_kind(Kind::Usage))?;
        Ok(Self { qat: Some(kind), ..self })
    }

    /// The model without an adapter as it is trained.
    fn computed_in(&self, model: Gemma3, dtype: DType) -> Result<Gemma3> {
        match self.qat {
            None => model.computed_in(dtype),
            Some(kind) => model.rounded_in(dtype, &kind.block_formats(&parameters(&self.config))?),
        }
    }

    /// The weights as f32 in memory, with the adapter added to them.
    ///
    /// # Errors
    /// Of kind [`Kind::Model`], or [`Kind::OutOfMemory`].
    pub fn merged(&self) -> Result<Vec<f32>> {
        let merged = || {
            let mut flat = self.source.load_flat(&self.config)?;
            self.weights().merge(&mut flat).map(|()| flat)
        };
        merged().map_err(|error: Error| error.or_kind(Kind::Model))
    }

    /// Reads the weights to train them: with an adapter, its own ones beside a model that is frozen.
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    pub fn load_to_train(&self, on: &ComputeDevice) -> Result<Gemma3> {
        let Some(adapter) = &self.adapter else { return self.computed_in(self.read(on, |_| Ok(()))?, on.dtype) };
        self.source.check(&self.config).map_err(|error| error.or_kind(Kind::Model))?;
        let mut room = self.room_to_train(&on.device)?;
        let read = |weights: &mut [f32]| {
            self.source.load_into(&self.config, weights)?;
            let begin = |values: &mut [f32]| adapter.read(&self.config, weights, values);
            room.adapter.as_mut().map_or(Ok(()), |values| values.fill_with(begin))
        };
        room.model.fill_with(read).map_err(|error| error.or_kind(Kind::Model))?;
        self.to_train(room, on.dtype)
    }

    /// Memory for what is trained and for what it stands beside.
    pub(super) fn room_to_train(&self, device: &Device) -> Result<Room> {
        let device = device.of(Purpose::Weights);
        let of = |len: usize| Tensor::empty(&device, &[len], DType::F32);
        let adapter = self.adapter.as_ref().map(|adapter| of(adapter.len(&self.config)?));
        Ok(Room { model: of(parameter_count(&parameter_specs(&self.config)))?, adapter: adapter.transpose()? })
    }

    /// The model of what has been read, computing in `dtype`.
    pub(super) fn to_train(&self, room: Room, dtype: DType) -> Result<Gemma3> {
        let model = Gemma3::new(self.config.clone(), room.model)?;
        let (Some(adapter), Some(values)) = (&self.adapter, room.adapter) else {
            return self.computed_in(model, dtype);
        };
        let adapter = Adapter::new(&self.config, adapter.config.lora.clone(), values)?;
        model.adapted(adapter, dtype)
    }
}

/// Weights in f32, laid out by their tables.
pub(super) struct Room {
    model: Tensor,
    adapter: Option<Tensor>,
}
