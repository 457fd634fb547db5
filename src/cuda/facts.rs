//! What a machine and its GPUs are, as plain values, and what of it keeps a GPU from being used.
//!
//! [`survey`](mod@super::survey) asks the driver for these values; everything that is concluded from them is concluded here.

use cudarc::driver::sys::CUresult;

use super::faults;
use crate::err;
use crate::error::Error;

/// The kernels use bf16 arithmetic and asynchronous copies, which came with Ampere.
pub const LEAST_CAPABILITY: (i32, i32) = (8, 0);

/// Drivers that know no newer CUDA have no `cuEventElapsedTime_v2`, and the first of CUDA 12 do not unpack compressed kernels.
const OLDEST_DRIVER: i32 = 12080;

/// Less holds no weights: 270 million in f32 are 1.1 GB.
pub const LEAST_BYTES: usize = 2_000_000_000;

/// This build, the driver and the libraries of this machine. A version is thousands and tens as CUDA counts: 13.1 is
/// 13010. What could not be asked is None.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Of the CUDA runtime in this build; None: it was built without nvcc.
    pub runtime: Option<i32>,
    /// The newest CUDA that the driver knows; None: there is no driver.
    pub driver: Option<i32>,
    /// What the driver could not do when it was started and asked for its GPUs.
    pub failure: Option<Failure>,
    /// Of cuBLASLt, counted in another way: 13.1.2 is 130102. None: it was not found.
    pub cublaslt: Option<usize>,
}

/// A call of the driver that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    pub doing: &'static str,
    pub code: CUresult,
    /// The driver's own words.
    pub said: String,
}

impl Machine {
    /// Why no GPU of this machine can be used; None when nothing is in the way.
    pub fn fault(&self) -> Option<Error> {
        let Some(runtime) = self.runtime else {
            let hint = "build where nvcc is, or run `scripts/install-cuda-compiler` first; or use `--device cpu`";
            return Some(err!("this build has no `cuda` device: it found no CUDA compiler").hint(hint));
        };
        if let Some(Failure { doing, code, said }) = &self.failure {
            let hint = faults::advice(*code).unwrap_or("see whether `nvidia-smi` works; or use `--device cpu`");
            return Some(faults::described(doing, *code, said).hint(hint));
        }
        let Some(driver) = self.driver else {
            let hint = "install the NVIDIA driver; in a container, start it with its GPUs; or use `--device cpu`";
            return Some(err!("there is no CUDA driver here (libcuda.so was not found)").hint(hint));
        };
        // A driver knows all runtimes of its own major version and of those before.
        let least = OLDEST_DRIVER.max(runtime / 1000 * 1000);
        if driver < least {
            let message = format!(
                "the NVIDIA driver is too old: it knows CUDA {}, this build needs CUDA {}",
                version(driver),
                version(least)
            );
            let older =
                if driver < OLDEST_DRIVER { "" } else { "build with the compiler of an older CUDA (NVCC=...); or " };
            let hint = format!("update the driver{}; or {older}use `--device cpu`", oldest_driver(least / 1000));
            return Some(Error::new(message).hint(hint));
        }
        self.fault_of_cublaslt(driver)
    }

    /// All that the speed and the sums of a product follow from, on a GPU of this machine.
    pub fn platform(&self, gpu: &Gpu) -> String {
        let ((major, minor), name) = (gpu.capability, &gpu.name);
        let (driver, cublaslt) = (self.driver.unwrap_or_default(), self.cublaslt.unwrap_or_default());
        format!("{name}, capability {major}.{minor}, driver {driver}, cuBLASLt {cublaslt}")
    }

    fn fault_of_cublaslt(&self, driver: i32) -> Option<Error> {
        let major = driver / 1000;
        let hint = |wheel: &str| {
            format!(
                "install the CUDA toolkit {major}, or `pip install {wheel}`, and put the folder of its \
                 `libcublasLt.so.{major}` on LD_LIBRARY_PATH; or use `--device cpu`"
            )
        };
        let hint = hint(if major == 12 { "nvidia-cublas-cu12" } else { "nvidia-cublas" });
        let Some(found) = self.cublaslt else {
            return Some(err!("cuBLASLt (libcublasLt.so) was not found").hint(hint));
        };
        let named = format!("{}.{}.{}", found / 10_000, found / 100 % 100, found % 100);
        if found < 120_000 {
            return Some(err!("cuBLASLt {named} is too old: 12.0 or newer is needed").hint(hint));
        }
        if found / 10_000 > major as usize {
            let known = version(driver);
            return Some(err!("cuBLASLt {named} is too new for the driver, which knows CUDA {known}").hint(hint));
        }
        None
    }
}

/// A GPU as it is before it is used.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// N of `cuda:N`.
    pub index: usize,
    pub name: String,
    /// The compute capability: 9.0 is an H100.
    pub capability: (i32, i32),
    pub total_bytes: usize,
    pub multiprocessors: usize,
    /// Whether its owner lets no program compute on it (compute mode `Prohibited`).
    pub prohibited: bool,
}

impl Gpu {
    /// Why this GPU cannot be used on a machine that has no fault; None when nothing is in the way.
    pub fn fault(&self, machine: &Machine) -> Option<Error> {
        let (major, minor) = self.capability;
        let hint = "use another GPU by `--device cuda:N` (`engine info` lists them), or `--device cpu`";
        if self.capability < LEAST_CAPABILITY {
            let (least, after) = LEAST_CAPABILITY;
            return Some(
                err!(
                    "{self} has compute capability {major}.{minor}, the kernels need {least}.{after} (Ampere) or newer"
                )
                .hint(hint),
            );
        }
        if self.prohibited {
            let hint = format!("its owner can change that by `nvidia-smi -c DEFAULT`; or {hint}");
            return Some(err!("{self} is closed to computing (compute mode `Prohibited`)").hint(hint));
        }
        if machine.cublaslt.is_some_and(|version| major >= 10 && version < 120_800) {
            let hint = format!("install a newer cuBLASLt; or {hint}");
            return Some(err!("{self} is newer than this machine's cuBLASLt: it needs 12.8 or newer").hint(hint));
        }
        self.lacks("has", self.total_bytes)
    }

    /// Why a GPU that other programs left `free` bytes cannot be used.
    pub fn fault_of_free(&self, free: usize) -> Option<Error> {
        self.lacks("has free", free)
    }

    fn lacks(&self, has: &str, bytes: usize) -> Option<Error> {
        let gigabytes = |bytes: usize| bytes as f64 / 1e9;
        (bytes < LEAST_BYTES).then(|| {
            err!(
                "{self} {has} {:.2} GB of memory, too little for a model: at least {:.1} GB are needed",
                gigabytes(bytes),
                gigabytes(LEAST_BYTES)
            )
            .hint("see by `nvidia-smi` which programs hold it; or use another GPU by `--device cuda:N`, or `--device cpu`")
        })
    }
}

impl std::fmt::Display for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`cuda:{}` ({})", self.index, self.name)
    }
}

/// 13010 as `13.1`.
fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// The oldest driver that knows a major version of CUDA, to be said after "the driver".
fn oldest_driver(major: i32) -> &'static str {
    match major {
        12 => " to 570 or newer",
        13 => " to 580 or newer",
        _ => "",
    }
}
