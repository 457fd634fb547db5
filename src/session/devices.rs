//! Devices by name: `auto`, `cpu`, `cuda`, `cuda:N`.
//!
//! There is a fourth, `emulated`: the kernels of the GPU run on the CPU by the emulator, some hundred times slower, with
//! every access checked. It is for tests, and no list of devices shows it.

use std::fmt;
use std::str::FromStr;

use crate::device::{DType, Device};
use crate::error::{Error, Result};
use crate::{cuda, err};

/// Where ops run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The first GPU that can be used, otherwise the CPU.
    #[default]
    Auto,
    Cpu,
    /// The GPU of this number, from 0.
    Cuda(usize),
    Emulated,
}

impl FromStr for DeviceName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let number = |n: &str| n.parse().ok().map(Self::Cuda);
        let named = match name {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            "emulated" => Some(Self::Emulated),
            _ => name.strip_prefix("cuda:").and_then(number),
        };
        named.ok_or_else(|| Error::usage(format!("`{name}` is no device: give auto, cpu, cuda or cuda:N")))
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Cpu => f.pad("cpu"),
            Self::Cuda(0) => f.pad("cuda"),
            Self::Cuda(n) => f.pad(&format!("cuda:{n}")),
            Self::Emulated => f.pad("emulated"),
        }
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
/// This machine or this build does not have the device, or it does not compute in `dtype`.
pub fn open(name: DeviceName, dtype: Option<DType>) -> Result<ComputeDevice> {
    let (device, fallback) = match name {
        DeviceName::Cpu => (Device::cpu(), None),
        DeviceName::Cuda(number) => (gpu(number)?, None),
        DeviceName::Emulated => (emulated()?, None),
        DeviceName::Auto => match cuda::missing() {
            None => (gpu(0)?, None),
            Some(reason) => (Device::cpu(), Some(reason)),
        },
    };
    let dtype = match (dtype, device.driver()) {
        (Some(DType::Bf16), None) => {
            return Err(
                err!("the `cpu` device computes in f32").hint("use `--dtype f32`; weights are saved by `--save-dtype`")
            );
        }
        (Some(dtype), _) => dtype,
        (None, Some(_)) => DType::Bf16,
        (None, None) => DType::F32,
    };
    Ok(ComputeDevice { device, dtype, fallback })
}

fn gpu(number: usize) -> Result<Device> {
    match number {
        0 => cuda::device(),
        _ => {
            Err(cuda::missing().unwrap_or_else(|| err!("there is no way to open GPU {number} yet").hint("use `cuda`")))
        }
    }
}

#[cfg(engine_emulated)]
fn emulated() -> Result<Device> {
    crate::emulated::device()
}

#[cfg(not(engine_emulated))]
fn emulated() -> Result<Device> {
    Err(err!("this build has no `emulated` device: it found no C++20 compiler (g++ or clang++)")
        .hint("use `--device cpu`"))
}
