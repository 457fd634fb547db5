//! Where ops run: every device of this build, in every type that it computes in.

use engine::device::{DType, Device};

/// A device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Host,
    /// Not there when the build found no C++20 compiler.
    #[cfg_attr(not(engine_emulated), allow(dead_code))]
    Emulated,
    Cuda,
}

/// A device and a type to compute in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    pub kind: Kind,
    pub dtype: DType,
}

/// The host and the emulated device in f32 and bf16; with `ENGINE_TEST_DEVICE` (`cuda`, `emulated`) that one alone. f64 is
/// what they are compared with.
pub fn places() -> Vec<Place> {
    let kinds: &[Kind] = match std::env::var("ENGINE_TEST_DEVICE").as_deref() {
        Ok("cuda") => &[Kind::Cuda],
        Ok("emulated") if cfg!(engine_emulated) => &[Kind::Emulated],
        _ if cfg!(engine_emulated) => &[Kind::Host, Kind::Emulated],
        _ => &[Kind::Host],
    };
    let types = [DType::F32, DType::Bf16];
    kinds.iter().flat_map(|&kind| types.map(|dtype| Place { kind, dtype })).collect()
}

/// A new device of each of these kinds.
pub fn devices() -> Vec<Device> {
    places().chunk_by(|a, b| a.kind == b.kind).map(|of_kind| of_kind[0].device()).collect()
}

impl Place {
    /// A new device of this kind.
    pub fn device(self) -> Device {
        match self.kind {
            Kind::Host => crate::guarded::host(),
            Kind::Emulated => emulated(),
            Kind::Cuda => engine::cuda::device().unwrap_or_else(|error| panic!("{}", error.report())),
        }
    }

    /// Runs twice, with threads in another order or of another number; `run` must give the same bits.
    pub fn twice<R: PartialEq + Send>(self, name: &str, run: impl Fn() -> R + Sync + Send) -> R {
        let (first, second) = match self.kind {
            Kind::Host => (on_threads(1, &run), on_threads(3, &run)),
            Kind::Emulated => (seeded(1, &run), seeded(2, &run)),
            Kind::Cuda => (run(), run()),
        };
        assert!(first == second, "{name} depends on the order of threads");
        first
    }
}

#[cfg(engine_emulated)]
fn emulated() -> Device {
    engine::emulated::device().unwrap()
}

#[cfg(not(engine_emulated))]
fn emulated() -> Device {
    unreachable!("`places` has none")
}

fn on_threads<R: Send>(threads: usize, run: &(impl Fn() -> R + Sync + Send)) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run)
}

fn seeded<R>(seed: u64, run: &impl Fn() -> R) -> R {
    #[cfg(engine_emulated)]
    engine::emulated::seed(seed);
    let _ = seed;
    run()
}
