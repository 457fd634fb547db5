//! A checkpoint holds how the device computed products, and a run that goes on has it computed so again.

use std::cell::RefCell;
use std::ffi::c_void;
use std::path::Path;
use std::rc::Rc;

use engine::device::bindings::engine_stream;
use engine::device::driver::{Driver, Product};
use engine::device::kernels::Kernels;
use engine::device::{DType, Device};
use engine::error::Result;
use engine::io::folder::{Existing, OutputFolder};
use engine::io::safetensors::SaveDtype;
use engine::session::{Checkpoint, ComputeDevice, Identity, Run, SavedRun, Saves};
use engine::train::options::TrainOptions;

use crate::rows;

/// The CPU as a device of this name that chooses, and makes the choices of its own kind.
struct Choosing {
    cpu: Device,
    name: &'static str,
    choices: Rc<RefCell<String>>,
}

fn device(name: &'static str, choices: &str) -> (Device, Rc<RefCell<String>>) {
    let choices = Rc::new(RefCell::new(choices.to_owned()));
    let driver = Choosing { cpu: engine::host::device(), name, choices: choices.clone() };
    (Device::with_driver(Box::new(driver)), choices)
}

impl Driver for Choosing {
    fn kernels(&self) -> Kernels {
        self.cpu.driver().kernels()
    }

    fn stream(&self) -> engine_stream {
        self.cpu.driver().stream()
    }

    fn name(&self) -> String {
        self.name.into()
    }

    fn allocate(&self, bytes: usize) -> Result<*mut c_void> {
        self.cpu.driver().allocate(bytes)
    }

    unsafe fn free(&self, address: *mut c_void, bytes: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.cpu.driver().free(address, bytes) };
    }

    fn is_host(&self) -> bool {
        true
    }

    fn captures_graphs(&self) -> bool {
        false
    }

    fn choices(&self) -> Option<String> {
        Some(self.choices.borrow().clone())
    }

    fn choose(&self, choices: &str) -> bool {
        let own = choices.starts_with(self.name);
        if own {
            *self.choices.borrow_mut() = choices.to_owned();
        }
        own
    }

    unsafe fn upload(&self, to: *mut c_void, from: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.cpu.driver().upload(to, from) }
    }

    unsafe fn download(&self, to: &mut [u8], from: *const c_void) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.cpu.driver().download(to, from) }
    }

    unsafe fn zero(&self, at: *mut c_void, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.cpu.driver().zero(at, bytes) }
    }

    unsafe fn product(&self, product: &Product) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.cpu.driver().product(product) }
    }
}

/// A checkpoint of a run on this device.
fn saved(device: Device, folder: &Path) -> SavedRun {
    let quickstart = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quickstart/model");
    let checkpoint = Checkpoint::open(quickstart).unwrap();
    let model = checkpoint.load(&ComputeDevice { device, dtype: DType::F32, fallback: None }).unwrap();
    let options = TrainOptions::default();
    let identity = Identity::new(&model, &rows(), &[], &options).unwrap();
    let mut run = Run::prepare(model, rows(), Vec::new(), options).unwrap();
    let folder = OutputFolder::claim(folder, Existing::Refuse).unwrap();
    let checkpoint = Rc::new(checkpoint);
    let saves = Saves { checkpoint, folder, identity, score_before: None, dtype: SaveDtype::F32, limit: None };
    SavedRun::open(&saves.save_checkpoint(&mut run).unwrap().place).unwrap()
}

#[test]
fn a_run_that_goes_on_computes_as_it_did_before() {
    let folder = tempfile::tempdir().unwrap();
    let saved = saved(device("chip", "chip: the second algorithm").0, &folder.path().join("run"));
    let (same, choices) = device("chip", "chip: the first algorithm");
    assert_eq!(saved.choose(&same), None);
    assert_eq!(*choices.borrow(), "chip: the second algorithm");
    // A device of another name is told of by the run's identity.
    let (other, choices) = device("another chip", "");
    assert_eq!(saved.choose(&other), None);
    assert_eq!(*choices.borrow(), "");
    assert_eq!(saved.choose(&engine::host::device()), None);
}

#[test]
fn a_run_that_cannot_be_computed_as_before_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let saved = saved(device("chip", "chi: of another library").0, &folder.path().join("run"));
    let warning = saved.choose(&device("chip", "").0).unwrap();
    assert!(warning.contains("another cuBLASLt"), "{warning}");
}
