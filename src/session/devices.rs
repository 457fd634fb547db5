//! Devices by name: `auto`, `cpu`, `cuda`, `cuda:N`.
//!
//! There is a fourth, `emulated`: the kernels of the GPU run on the CPU by the emulator, some hundred times slower, with
//! every access checked. It is for tests, and no list of devices shows it.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::device::{DType, Device};
use crate::error::{Error, Result};
use crate::{cuda, host};

/// Where ops run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The first GPU that can be used, otherwise the CPU.
    #[default]
    Auto,
    Cpu,
    /// `cuda` or `cuda:N`.
    Cuda(cuda::Name),
    Emulated,
}

impl FromStr for DeviceName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let named = match name {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "emulated" => Some(Self::Emulated),
            _ => name.parse().ok().map(Self::Cuda),
        };
        named.ok_or_else(|| Error::usage(format!("`{name}` is no device: give auto, cpu, cuda or cuda:N")))
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Cpu => f.pad("cpu"),
            Self::Cuda(name) => f.pad(&name.to_string()),
            Self::Emulated => f.pad("emulated"),
        }
    }
}

impl Serialize for DeviceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A device that was opened, and what ops compute in on it.
pub struct ComputeDevice {
    pub device: Device,
    pub dtype: DType,
    /// Why [`DeviceName::Auto`] took the CPU.
    pub fallback: Option<Error>,
}

/// Opens a device. `dtype` None: bf16 on a GPU, f32 on the CPU.
///
/// # Errors
/// This machine or this build does not have the device.
pub fn open(name: DeviceName, dtype: Option<DType>) -> Result<ComputeDevice> {
    let (device, fallback) = match name {
        DeviceName::Cpu => (host::device(), None),
        DeviceName::Cuda(name) => (cuda::open_named(name)?, None),
        DeviceName::Emulated => (emulated()?, None),
        DeviceName::Auto => match cuda::missing() {
            None => (cuda::device()?, None),
            Some(reason) => (host::device(), Some(reason)),
        },
    };
    let usual = if device.driver().is_host() { DType::F32 } else { DType::Bf16 };
    Ok(ComputeDevice { device, dtype: dtype.unwrap_or(usual), fallback })
}

#[cfg(engine_emulated)]
fn emulated() -> Result<Device> {
    crate::emulated::device()
}

#[cfg(not(engine_emulated))]
fn emulated() -> Result<Device> {
    Err(crate::err!("this build has no `emulated` device: it found no C++20 compiler (g++ or clang++)")
        .hint("use `--device cpu`"))
}
