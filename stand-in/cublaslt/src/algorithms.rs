//! Which algorithms there are for a product, and what an algorithm is: 64 bytes that hold all of it, as NVIDIA's do, so that they can be
//! stored and used again.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, c_int, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;

use cudarc::cublaslt::sys::{
    cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t, cublasLtMatmulHeuristicResult_t,
    cublasLtMatmulPreference_t, cublasLtMatrixLayout_t, cublasStatus_t as Status,
};

use crate::abi::{Algorithm, Take};
use crate::descriptors::{preferences, require_handle};
use crate::driver::{Outcome, answer, fault};
use crate::multiply::Rounding;
use crate::product::{Problem, bytes_of};

const INVALID: Status = Status::CUBLAS_STATUS_INVALID_VALUE;
const MAGIC: u64 = 0x5354_414e_4449_4e21;
/// What the library finds out late.
pub const DOES_NOT_RUN: &str = "this algorithm does not run, though it was listed";
/// The first run of an algorithm loads its code.
const LOADING_NANOSECONDS: u64 = 1_000_000;

/// What is found unless a test wants something else: the second is the fastest, the third cannot be used after all.
const USUAL: [Algorithm; 4] = [
    Algorithm { id: 0, workspace: u64::MAX, nanoseconds: 20_000, listed: true, runs: true },
    Algorithm { id: 1, workspace: 4096, nanoseconds: 10_000, listed: true, runs: true },
    Algorithm { id: 2, workspace: 0, nanoseconds: 1_000, listed: false, runs: false },
    Algorithm { id: 3, workspace: 0, nanoseconds: 30_000, listed: true, runs: true },
];

thread_local! {
    /// What this thread's calls find.
    static LIST: RefCell<Vec<Algorithm>> = RefCell::new(USUAL.to_vec());
    static VERSION: Cell<usize> = const { Cell::new(130_000) };
    /// The algorithms of this thread's products.
    static RAN: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// Algorithms that a handle has found or checked, and how often they ran.
static CHECKED: Mutex<BTreeMap<u64, BTreeSet<[u64; 8]>>> = Mutex::new(BTreeMap::new());
static LOADED: Mutex<BTreeSet<(u64, u32)>> = Mutex::new(BTreeSet::new());

/// What an algorithm's words say.
#[derive(Clone, Copy)]
pub struct Choice {
    pub id: u32,
    pub workspace: u64,
    pub rounding: Rounding,
    alignments: [u32; 4],
    /// Of the product.
    hash: u64,
}

impl Choice {
    fn words(&self) -> [u64; 8] {
        let rounding = match self.rounding {
            Rounding::None => 0,
            Rounding::Parts => 1,
            Rounding::InputsTo(bits) => 2 + u64::from(bits),
        };
        let alignments = self.alignments.iter().fold(0, |all, alignment| all << 16 | u64::from(*alignment));
        let (id, version) = (u64::from(self.id), VERSION.get() as u64);
        let mut words = [MAGIC, id, version, self.workspace, alignments, rounding, self.hash, 0];
        words[7] = hash_of(&words);
        words
    }

    /// None: no algorithm of this library, of this version.
    fn of(words: [u64; 8]) -> Option<Self> {
        let [.., workspace, alignments, rounding, hash, _] = words;
        let rounding = match rounding {
            0 => Rounding::None,
            1 => Rounding::Parts,
            bits => Rounding::InputsTo((bits as u32).wrapping_sub(2)),
        };
        let alignments = [48, 32, 16, 0].map(|shift| (alignments >> shift & 0xffff) as u32);
        let choice = Self { id: words[1] as u32, workspace, rounding, alignments, hash };
        (choice.words() == words).then_some(choice)
    }

    /// An error when the algorithm was not chosen for this product, these addresses and this workspace.
    pub fn require(&self, problem: &Problem, addresses: [u64; 4], (address, bytes): (u64, u64)) -> Outcome {
        if self.hash != hash_of(problem) {
            return fault(INVALID, "the algorithm was chosen for another product");
        }
        for (i, name) in ["A", "B", "C", "D"].into_iter().enumerate() {
            let alignment = self.alignments[i];
            if addresses[i] == 0 || !addresses[i].is_multiple_of(u64::from(alignment)) {
                let why = format!("{name} lies at {:#x}, which {alignment} bytes do not divide", addresses[i]);
                return fault(INVALID, why);
            }
        }
        if bytes < self.workspace || (bytes > 0 && !address.is_multiple_of(16)) {
            let takes = self.workspace;
            let why = format!("a workspace of {bytes} bytes at {address:#x} for an algorithm that takes {takes}");
            return fault(INVALID, why);
        }
        Ok(())
    }
}

fn hash_of(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

fn is_checked(handle: u64, words: [u64; 8]) {
    CHECKED.lock().expect("nobody panics with it").entry(handle).or_default().insert(words);
}

/// The algorithm of a product; an error when this handle has neither found nor checked it.
pub fn checked(handle: u64, words: [u64; 8]) -> Outcome<Choice> {
    let known = CHECKED.lock().expect("nobody panics with it").get(&handle).is_some_and(|all| all.contains(&words));
    match Choice::of(words) {
        Some(choice) if known => Ok(choice),
        _ => fault(INVALID, "an algorithm that this handle has neither found nor checked"),
    }
}

fn listed(id: u32) -> Option<Algorithm> {
    LIST.with_borrow(|list| list.iter().find(|algorithm| algorithm.id == id).copied())
}

pub fn runs(id: u32) -> bool {
    listed(id).is_none_or(|algorithm| algorithm.runs)
}

/// What a run takes by the GPU's clock. It is kept for the test.
pub fn begin(handle: u64, choice: &Choice) -> u64 {
    RAN.with_borrow_mut(|ran| ran.push(choice.id));
    let loads = LOADED.lock().expect("nobody panics with it").insert((handle, choice.id));
    listed(choice.id).map_or(0, |algorithm| algorithm.nanoseconds) + if loads { LOADING_NANOSECONDS } else { 0 }
}

fn result(choice: &Choice, state: Status) -> cublasLtMatmulHeuristicResult_t {
    cublasLtMatmulHeuristicResult_t {
        algo: cublasLtMatmulAlgo_t { data: choice.words() },
        workspaceSize: choice.workspace as usize,
        state,
        wavesCount: 1.0,
        reserved: [0; 4],
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    handle: cublasLtHandle_t,
    product: cublasLtMatmulDesc_t,
    a: cublasLtMatrixLayout_t,
    b: cublasLtMatrixLayout_t,
    c: cublasLtMatrixLayout_t,
    d: cublasLtMatrixLayout_t,
    preference: cublasLtMatmulPreference_t,
    requested: c_int,
    found: *mut cublasLtMatmulHeuristicResult_t,
    count: *mut c_int,
) -> Status {
    answer("cublasLtMatmulAlgoGetHeuristic", || {
        require_handle(handle as u64)?;
        let problem = Problem::new(product as u64, [a as u64, b as u64, c as u64, d as u64])?;
        let preferences = preferences(preference as u64)?;
        if requested < 1 || found.is_null() || count.is_null() {
            return fault(INVALID, "nowhere to put what is found");
        }
        let size = [0, 1, 2, 3].map(|i| bytes_of(problem.layouts[i].dtype) as u32);
        let alignments = preferences.alignments;
        if (0..4).any(|i| !alignments[i].is_power_of_two() || alignments[i] < size[i]) {
            return fault(INVALID, format!("alignments of {alignments:?} bytes"));
        }
        let (rounding, hash) = (problem.rounding(preferences.reductions), hash_of(&problem));
        let list: Vec<Algorithm> = LIST.with_borrow(|list| list.iter().take(requested as usize).copied().collect());
        for (i, Algorithm { id, workspace, listed, .. }) in list.iter().copied().enumerate() {
            let choice = Choice { id, workspace: workspace.min(preferences.workspace), rounding, alignments, hash };
            let state = if listed { Status::CUBLAS_STATUS_SUCCESS } else { Status::CUBLAS_STATUS_NOT_SUPPORTED };
            if listed {
                is_checked(handle as u64, choice.words());
            }
            // SAFETY: the caller's, who has room for as many as were requested.
            unsafe { *found.add(i) = result(&choice, state) };
        }
        // SAFETY: as above.
        unsafe { *count = list.len() as c_int };
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulAlgoCheck(
    handle: cublasLtHandle_t,
    product: cublasLtMatmulDesc_t,
    a: cublasLtMatrixLayout_t,
    b: cublasLtMatrixLayout_t,
    c: cublasLtMatrixLayout_t,
    d: cublasLtMatrixLayout_t,
    algorithm: *const cublasLtMatmulAlgo_t,
    found: *mut cublasLtMatmulHeuristicResult_t,
) -> Status {
    // Whoever asks gets an answer: a refusal is no mistake of the caller's.
    let mut refused = None;
    let status = answer("cublasLtMatmulAlgoCheck", || {
        require_handle(handle as u64)?;
        let problem = Problem::new(product as u64, [a as u64, b as u64, c as u64, d as u64])?;
        if algorithm.is_null() || found.is_null() {
            return fault(INVALID, "a null pointer");
        }
        // SAFETY: the caller's.
        let words = unsafe { (*algorithm).data };
        match Choice::of(words) {
            None => refused = Some(INVALID),
            Some(choice) if choice.hash != hash_of(&problem) => refused = Some(Status::CUBLAS_STATUS_NOT_SUPPORTED),
            Some(choice) => {
                is_checked(handle as u64, words);
                // SAFETY: the caller's.
                unsafe { *found = result(&choice, Status::CUBLAS_STATUS_SUCCESS) };
            }
        }
        Ok(())
    });
    refused.unwrap_or(status)
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetVersion() -> usize {
    VERSION.get()
}

/// The library is of this version from now on, for this thread.
#[unsafe(no_mangle)]
extern "C" fn stand_in_cublaslt_version(version: usize) {
    VERSION.set(version);
}

/// This thread's calls find these algorithms from now on.
///
/// # Safety
/// So many are there.
#[unsafe(no_mangle)]
unsafe extern "C" fn stand_in_cublaslt_algorithms(list: *const Algorithm, count: usize) {
    // SAFETY: the caller's promise.
    LIST.set(unsafe { std::slice::from_raw_parts(list, count) }.to_vec());
}

/// Hands on the number of the algorithm of each product that this thread has queued since the last time.
///
/// # Safety
/// `take` takes `to` and a C string that it copies.
#[unsafe(no_mangle)]
unsafe extern "C" fn stand_in_cublaslt_ran(take: Take, to: *mut c_void) {
    for id in RAN.take() {
        let line = CString::new(id.to_string()).unwrap_or_default();
        // SAFETY: the caller's promise.
        unsafe { take(to, line.as_ptr()) };
    }
}
