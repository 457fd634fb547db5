//! What runs on the GPUs of the stand-in: the emulator's kernels and memory, the CPU's products.

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_void};
use std::ptr;

use cudarc::driver::sys::CUresult;
use engine::device::DType;
use engine::device::bindings::{
    engine_emulator_allocate, engine_emulator_free, engine_emulator_graph, engine_emulator_graph_free,
    engine_emulator_graph_launch, engine_kernels, engine_status, engine_stream,
};
use engine::device::driver::{Operand, Product};
use engine::device::kernels::Kernels;
use engine::host::products;

use crate::abi::{Access, Gemm, Memory, Work};
use crate::machine::{self, stand_in};

type Enqueue = unsafe extern "C" fn(engine_stream, *mut engine_emulator_graph, *const c_char) -> *const c_char;

type Take = unsafe extern "C" fn(*mut c_void, *const c_char, u64, u64, *const u64, usize);

// kernels/emulator/{queued,graph}.cpp
unsafe extern "C" {
    fn engine_emulator_queued(enqueue: Enqueue) -> *const engine_kernels;
    fn engine_emulator_graph_kernels(graph: *const engine_emulator_graph, take: Take, to: *mut c_void);
}

/// Launchers that queue the emulator's kernels on streams of the stand-in.
pub fn kernels() -> Kernels {
    // SAFETY: the table is a constant, and `enqueue` is what it wants.
    Kernels { table: unsafe { &*engine_emulator_queued(enqueue) } }
}

/// The emulator's: NaN at first, between guard bands.
pub const MEMORY: Memory = Memory { allocate: engine_emulator_allocate, free };

unsafe extern "C" fn free(address: *mut c_void) -> bool {
    // SAFETY: the stand-in allocated it by `MEMORY`.
    unsafe { engine_emulator_free(address) == engine_status::ENGINE_OK }
}

unsafe extern "C" fn enqueue(
    stream: engine_stream,
    kernels: *mut engine_emulator_graph,
    launcher: *const c_char,
) -> *const c_char {
    unsafe extern "C" fn take(
        to: *mut c_void,
        _name: *const c_char,
        _blocks: u64,
        _shared: u64,
        words: *const u64,
        count: usize,
    ) {
        // SAFETY: words that live during the call, and `to` is the list below.
        let (words, accesses) = unsafe { (std::slice::from_raw_parts(words, count), &mut *to.cast::<Vec<Access>>()) };
        // A kernel may write through any argument.
        accesses.extend(words.iter().map(|&address| Access { address, bytes: 0, writes: true }));
    }
    thread_local! {
        static REFUSED: RefCell<CString> = RefCell::default();
    }
    let mut accesses: Vec<Access> = Vec::new();
    // SAFETY: the graph is there; the list outlives the call.
    unsafe { engine_emulator_graph_kernels(kernels, take, (&raw mut accesses).cast()) };
    let work = Work {
        run,
        drop,
        data: kernels.cast(),
        accesses: accesses.as_ptr(),
        accesses_len: accesses.len(),
        what: launcher,
        nanoseconds: 1000,
    };
    // SAFETY: `work` is whole, and the graph is the stand-in's from now on.
    match unsafe { (stand_in().enqueue)(stream.cast(), &work) } {
        CUresult::CUDA_SUCCESS => ptr::null(),
        code => REFUSED.with_borrow_mut(|refused| {
            *refused = CString::new(format!("{code:?}")).unwrap();
            refused.as_ptr()
        }),
    }
}

unsafe extern "C" fn run(kernels: *mut c_void) -> CUresult {
    // SAFETY: the graph that `enqueue` handed in.
    let status = unsafe { engine_emulator_graph_launch(kernels.cast()) };
    if let Err(error) = Kernels::emulated().unwrap().check(status, "a kernel") {
        machine::note(&error.to_string());
    }
    match status {
        engine_status::ENGINE_OK => CUresult::CUDA_SUCCESS,
        engine_status::ENGINE_OUT_OF_BOUNDS => CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        _ => CUresult::CUDA_ERROR_LAUNCH_FAILED,
    }
}

unsafe extern "C" fn drop(kernels: *mut c_void) {
    // SAFETY: the graph that `enqueue` handed in, once.
    unsafe { engine_emulator_graph_free(kernels.cast()) };
}

/// The CPU's product, which is the emulated device's: column-major `D = A B` is row-major `D^T = B^T A^T`.
pub unsafe extern "C" fn multiply(gemm: *const Gemm) -> bool {
    // SAFETY: the caller's, for the time of the call.
    let gemm = unsafe { &*gemm };
    if gemm.ldd != gemm.m {
        return false;
    }
    let dtype = |is_bf16| if is_bf16 { DType::Bf16 } else { DType::F32 };
    let product = Product {
        c: gemm.d,
        a: Operand { address: gemm.b, stride: gemm.ldb, transposed: gemm.transposed_b },
        b: Operand { address: gemm.a, stride: gemm.lda, transposed: gemm.transposed_a },
        m: gemm.n,
        n: gemm.m,
        k: gemm.k,
        dtype: dtype(gemm.inputs_are_bf16),
        c_dtype: dtype(gemm.d_is_bf16),
        accumulate: gemm.accumulate,
    };
    // SAFETY: the stand-in has seen that the matrices are there.
    unsafe { products::multiply(&product) };
    true
}
