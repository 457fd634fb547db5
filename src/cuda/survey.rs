//! A look at this machine before a GPU is chosen: every GPU that the driver knows, and why it cannot be used.
//!
//! Nothing is opened: no context is made and no memory is taken. [`facts`](super::facts) judges.

use cudarc::cublaslt::sys as cublaslt;
use cudarc::driver::sys::{self, CUcomputemode, CUdevice, CUdevice_attribute};
use cudarc::driver::{DriverError, result};

use super::facts::{Failure, Gpu, Machine};
use super::name::Name;
use crate::device::kernels::Kernels;
use crate::err;
use crate::error::{Error, Result};

/// This machine and its GPUs.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    pub machine: Machine,
    pub gpus: Vec<Gpu>,
}

impl Survey {
    /// Asks the driver and the libraries of this machine.
    pub fn ask() -> Self {
        let mut survey = Self { machine: Machine { runtime: runtime(), ..Machine::default() }, gpus: Vec::new() };
        // SAFETY: loads the library, which has no side effect beyond its own initialisation.
        if !unsafe { sys::is_culib_present() } {
            return survey;
        }
        if let Err(failure) = survey.ask_driver() {
            survey.machine.failure = Some(failure);
        }
        survey.machine.cublaslt = cublaslt();
        survey
    }

    fn ask_driver(&mut self) -> Result<(), Failure> {
        let told = |doing| move |error: DriverError| failure(doing, error);
        let mut version = 0;
        // SAFETY: the driver writes one number; it may be called before all else.
        unsafe { sys::cuDriverGetVersion(&raw mut version) }
            .result()
            .map_err(told("asking for the driver's version"))?;
        self.machine.driver = Some(version);
        result::init().map_err(told("starting the CUDA driver"))?;
        let count = result::device::get_count().map_err(told("counting GPUs"))?;
        for index in 0..count {
            let gpu = result::device::get(index).and_then(|device| ask_gpu(index as usize, device));
            self.gpus.push(gpu.map_err(told("asking what a GPU is"))?);
        }
        Ok(())
    }

    /// Why no GPU can be used, whichever it is; None: see [`Survey::fault_of`].
    pub fn fault(&self) -> Option<Error> {
        self.machine.fault().or_else(|| {
            let hint = "see whether CUDA_VISIBLE_DEVICES hides it; or use `--device cpu`";
            self.gpus.is_empty().then(|| err!("the CUDA driver knows no GPU").hint(hint))
        })
    }

    /// Why `gpu` cannot be used; None when it can.
    pub fn fault_of(&self, gpu: &Gpu) -> Option<Error> {
        self.fault().or_else(|| gpu.fault(&self.machine))
    }

    /// The GPU that `name` means; else why it cannot be used.
    pub fn choose(&self, name: Name) -> Result<&Gpu> {
        if let Some(fault) = self.fault() {
            return Err(fault);
        }
        let Name::Index(index) = name else { return self.first() };
        let gpu = self.gpus.get(index).ok_or_else(|| {
            let known: Vec<_> = self.gpus.iter().map(Gpu::to_string).collect();
            let hint = format!("there is {}; or use `--device cpu`", known.join(", "));
            err!("there is no `{name}`").hint(hint)
        })?;
        gpu.fault(&self.machine).map_or(Ok(gpu), Err)
    }

    /// The first GPU that can be used; else the reasons why none can.
    fn first(&self) -> Result<&Gpu> {
        let mut faults = Vec::new();
        for gpu in &self.gpus {
            match gpu.fault(&self.machine) {
                None => return Ok(gpu),
                Some(fault) => faults.push(fault),
            }
        }
        if faults.len() == 1 {
            return Err(faults.remove(0));
        }
        let said: Vec<_> = faults.iter().map(Error::to_string).collect();
        Err(err!("none of the {} GPUs can be used: {}", said.len(), said.join("; ")).hint("use `--device cpu`"))
    }
}

fn failure(doing: &'static str, error: DriverError) -> Failure {
    let said = error.error_string().map(|text| text.to_string_lossy().into_owned());
    Failure { doing, code: error.0, said: said.unwrap_or_default() }
}

fn ask_gpu(index: usize, device: CUdevice) -> Result<Gpu, DriverError> {
    use CUdevice_attribute::*;
    // SAFETY: the driver gave the device a moment ago.
    let attribute = |which| unsafe { result::device::get_attribute(device, which) };
    let major = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let mode = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_MODE)?;
    Ok(Gpu {
        index,
        name: result::device::get_name(device)?,
        capability: (major, minor),
        // SAFETY: as above.
        total_bytes: unsafe { result::device::total_mem(device)? },
        multiprocessors: attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
        prohibited: mode == CUcomputemode::CU_COMPUTEMODE_PROHIBITED as i32,
    })
}

/// The version of the CUDA runtime that the kernels were linked with; None: there are none.
fn runtime() -> Option<i32> {
    Kernels::cuda()?;
    #[cfg(engine_cuda)]
    {
        unsafe extern "C" {
            fn cudaRuntimeGetVersion(version: *mut i32) -> i32;
        }
        let mut version = 0;
        // SAFETY: the runtime is linked in; it writes one number and needs no driver.
        unsafe { cudaRuntimeGetVersion(&raw mut version) };
        Some(version)
    }
    #[cfg(not(engine_cuda))]
    None
}

/// The version of cuBLASLt; None when it was not found. It is looked for as `libcublasLt.so`, then with the numbers that
/// its wheels give it, `libcublasLt.so.13` first.
fn cublaslt() -> Option<usize> {
    // SAFETY: loads the library, which has no side effect beyond its own initialisation; then a call without arguments.
    unsafe { cublaslt::is_culib_present().then(|| cublaslt::cublasLtGetVersion()) }
}
