//! The stand-in libraries, opened so that cudarc finds them by NVIDIA's names, and GPUs of theirs for tests.

use std::env;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use cudarc::driver::sys::{CUresult, CUstream};
use engine::device::Device;
use engine::device::kernels::Kernels;
use engine::error::Result;
use libloading::Library;

use crate::abi::{Algorithm, Memory, Multiply, Take, Work};
use crate::cuda::{self, Name, Settings, Survey};
use crate::launches::{self, MEMORY};

/// The functions of the stand-ins that NVIDIA's libraries do not have.
pub struct StandIn {
    pub enqueue: unsafe extern "C" fn(CUstream, *const Work) -> CUresult,
    note: unsafe extern "C" fn(*const c_char),
    take_faults: unsafe extern "C" fn(Take, *mut c_void),
    leftovers: unsafe extern "C" fn(c_int, Take, *mut c_void),
    leftovers_of_cublaslt: unsafe extern "C" fn(Take, *mut c_void),
    version: unsafe extern "C" fn(usize),
    algorithms: unsafe extern "C" fn(*const Algorithm, usize),
    ran: unsafe extern "C" fn(Take, *mut c_void),
    fail: unsafe extern "C" fn(*const c_char, u32, CUresult),
    total: unsafe extern "C" fn(c_int, usize),
    _libraries: [Library; 2],
}

/// Opens both libraries. Who asks for `libcuda.so` gets what is open under that name.
pub fn stand_in() -> &'static StandIn {
    static OPEN: OnceLock<StandIn> = OnceLock::new();
    OPEN.get_or_init(|| {
        // Cargo puts them beside the test, for which it builds them.
        let beside = || env::current_exe().unwrap().parent().unwrap().to_path_buf();
        let folder = env::var_os("ENGINE_STAND_IN").map_or_else(beside, PathBuf::from);
        // SAFETY: our own libraries, whose functions have these types.
        unsafe {
            let open = |name: &str| Library::new(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            let (driver, cublaslt) = (open("libstand_in_driver.so"), open("libstand_in_cublaslt.so"));
            let memory: unsafe extern "C" fn(Memory) = *driver.get(b"stand_in_memory").unwrap();
            memory(MEMORY);
            let multiply: unsafe extern "C" fn(Option<Multiply>) = *cublaslt.get(b"stand_in_multiply").unwrap();
            multiply(Some(launches::multiply));
            StandIn {
                enqueue: *driver.get(b"stand_in_enqueue").unwrap(),
                note: *driver.get(b"stand_in_note_fault").unwrap(),
                take_faults: *driver.get(b"stand_in_take_faults").unwrap(),
                leftovers: *driver.get(b"stand_in_leftovers").unwrap(),
                leftovers_of_cublaslt: *cublaslt.get(b"stand_in_cublaslt_leftovers").unwrap(),
                version: *cublaslt.get(b"stand_in_cublaslt_version").unwrap(),
                algorithms: *cublaslt.get(b"stand_in_cublaslt_algorithms").unwrap(),
                ran: *cublaslt.get(b"stand_in_cublaslt_ran").unwrap(),
                fail: *driver.get(b"stand_in_fail").unwrap(),
                total: *driver.get(b"stand_in_total").unwrap(),
                _libraries: [driver, cublaslt],
            }
        }
    })
}

pub const USUAL: Settings =
    Settings { debug_sync: false, timed_products: true, programmatic_launch: true, folder: None };

/// A GPU that no other test has.
pub struct Gpu {
    pub index: usize,
}

impl Gpu {
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        stand_in();
        Self { index: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    /// The engine's device on it, which keeps no choices of algorithms.
    pub fn open(&self) -> Result<Device> {
        self.open_with(USUAL)
    }

    pub fn open_with(&self, settings: Settings) -> Result<Device> {
        self.open_on(&survey(), settings)
    }

    /// On a machine that is not as the driver says.
    pub fn open_on(&self, survey: &Survey, settings: Settings) -> Result<Device> {
        self.open_by(launches::kernels(), survey, settings)
    }

    /// With other launchers.
    pub fn open_by(&self, kernels: Kernels, survey: &Survey, settings: Settings) -> Result<Device> {
        cuda::open_with(kernels, &survey.machine, survey.choose(Name::Index(self.index))?, settings)
    }

    /// It has so many bytes from now on.
    pub fn set_total(&self, bytes: usize) {
        // SAFETY: a number.
        unsafe { (stand_in().total)(self.index as c_int, bytes) };
    }

    /// What was made and not given back, by this test.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = lines(|take, to| {
            // SAFETY: `take` and `to` fit.
            unsafe { (stand_in().leftovers)(self.index as c_int, take, to) }
        });
        left.extend(lines(|take, to| {
            // SAFETY: as above.
            unsafe { (stand_in().leftovers_of_cublaslt)(take, to) }
        }));
        left
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(faults(), [""; 0], "calls that failed");
            assert_eq!(self.leftovers(), [""; 0]);
        }
    }
}

/// What the machine is, as if this build had kernels for it.
pub fn survey() -> Survey {
    let mut survey = cuda::survey();
    survey.machine.runtime = Some(13_000);
    survey
}

/// What this thread's calls failed with since the last time.
pub fn faults() -> Vec<String> {
    lines(|take, to| {
        // SAFETY: `take` and `to` fit.
        unsafe { (stand_in().take_faults)(take, to) }
    })
}

fn lines(hand_on: impl FnOnce(Take, *mut c_void)) -> Vec<String> {
    unsafe extern "C" fn take(to: *mut c_void, line: *const c_char) {
        // SAFETY: `to` is the list below, `line` a C string.
        unsafe { (*to.cast::<Vec<String>>()).push(CStr::from_ptr(line).to_str().unwrap().to_string()) };
    }
    let mut lines: Vec<String> = Vec::new();
    hand_on(take, (&raw mut lines).cast());
    lines
}

/// cuBLASLt is of this version for this thread from now on.
pub fn set_version(version: usize) {
    // SAFETY: a number.
    unsafe { (stand_in().version)(version) };
}

/// This thread's products find these algorithms from now on.
pub fn set_algorithms(list: &[Algorithm]) {
    // SAFETY: so many are there; they are copied.
    unsafe { (stand_in().algorithms)(list.as_ptr(), list.len()) };
}

/// The algorithms of the products that this thread has queued since the last time.
pub fn ran() -> Vec<u32> {
    let lines = lines(|take, to| {
        // SAFETY: `take` and `to` fit.
        unsafe { (stand_in().ran)(take, to) }
    });
    lines.iter().map(|id| id.parse().unwrap()).collect()
}

/// Keeps a failure for this thread's test.
pub fn note(line: &str) {
    let line = CString::new(line).unwrap();
    // SAFETY: a C string, which is copied.
    unsafe { (stand_in().note)(line.as_ptr()) };
}

/// Of this thread's calls of the driver's function the one after the next `after` fails with `code`.
pub fn fail(call: &str, after: u32, code: CUresult) {
    let call = CString::new(call).unwrap();
    // SAFETY: a C string, which is copied.
    unsafe { (stand_in().fail)(call.as_ptr(), after, code) };
}
