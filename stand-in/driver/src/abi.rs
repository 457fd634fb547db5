//! What the stand-ins, and the tests that open them, tell one another beside NVIDIA's functions.

use std::ffi::{c_char, c_void};

use cudarc::driver::sys::CUresult;

/// Memory that a piece of work touches. `bytes` 0: a word of a kernel's arguments, which may be an address or not; the
/// kernel may touch all of the allocation that it lies in.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Access {
    pub address: u64,
    pub bytes: u64,
    pub writes: bool,
}

/// Something that a stream does in its turn: once, or whenever a graph that holds it is launched.
#[repr(C)]
pub struct Work {
    pub run: unsafe extern "C" fn(data: *mut c_void) -> CUresult,
    /// Called once, when nothing holds the work any more, also when it was refused.
    pub drop: unsafe extern "C" fn(data: *mut c_void),
    pub data: *mut c_void,
    pub accesses: *const Access,
    pub accesses_len: usize,
    /// A kernel or a product, for people; read before `enqueue` returns.
    pub what: *const c_char,
    /// What it takes by the GPU's clock.
    pub nanoseconds: u64,
}

/// Where the memory of the GPUs comes from. `free` says whether what lies around it is as it was.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Memory {
    pub allocate: unsafe extern "C" fn(bytes: usize) -> *mut c_void,
    pub free: unsafe extern "C" fn(address: *mut c_void) -> bool,
}

/// `D (m, n) = op(A) (m, k) op(B) (k, n) + beta D` as BLAS has it: element (r, c) of a matrix lies at `r + c * ld`, `op` is
/// the transpose or nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Gemm {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: *const c_void,
    pub lda: usize,
    pub transposed_a: bool,
    pub b: *const c_void,
    pub ldb: usize,
    pub transposed_b: bool,
    pub d: *mut c_void,
    pub ldd: usize,
    /// Of D; f32 otherwise.
    pub d_is_bf16: bool,
    /// Of A and B; f32 otherwise.
    pub inputs_are_bf16: bool,
    /// beta is 1, not 0.
    pub accumulate: bool,
}

/// Computes it in f32 sums and says so; false: the library is to do it.
pub type Multiply = unsafe extern "C" fn(gemm: *const Gemm) -> bool;

/// An algorithm that cuBLASLt is to find from now on.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Algorithm {
    /// Nobody else's in the list.
    pub id: u32,
    /// Scratch that it takes, as far as there may be so much.
    pub workspace: u64,
    pub nanoseconds: u64,
    /// Whether it is listed as one that can be used.
    pub listed: bool,
    /// Whether it runs: the library may find out late.
    pub runs: bool,
}

/// Takes one line of a report.
pub type Take = unsafe extern "C" fn(to: *mut c_void, line: *const c_char);
