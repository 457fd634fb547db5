//! The CPU: the table of kernels in Rust (a file per op), and a driver whose memory is the host's.
//!
//! It is the device where there is no GPU, and the oracle of every kernel: f32 and bf16 run, f64 is held against central
//! differences. Whatever is queued runs at once, and no graph is captured.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr;

use half::bf16;
use rayon::prelude::*;

use crate::device::bindings::{ENGINE_HOST_ATTENTION_TILE, engine_stream};
use crate::device::driver::{Driver, Product, Search};
use crate::device::kernels::Kernels;
use crate::device::{DType, Device, room};
use crate::error::Result;

mod adamw;
mod add;
mod attention;
mod cast;
mod clip;
mod cross_entropy;
mod decode;
mod dropout;
mod embedding;
mod geglu;
pub mod gemm;
mod halves;
mod launcher;
mod linear;
mod memory;
pub mod products;
mod rmsnorm;
mod rope;
mod round_blocks;
mod sample;
pub mod search;
pub mod simd;
mod sum_parts;
mod table;
mod visible;
mod weight_gradients;

use products::choice::{Kernel, VARIABLE};

/// Bytes that one task sets to zero: new memory costs a page fault each huge page, of which every core takes its share.
const ZEROED_AT_ONCE: usize = 4 << 20;

/// The host's cores and memory.
struct Host;

/// A new device on the CPU, with a pool of memory of its own.
pub fn device() -> Device {
    Device::with_driver(Box::new(Host))
}

impl Driver for Host {
    fn kernels(&self) -> Kernels {
        table::kernels()
    }

    fn stream(&self) -> engine_stream {
        ptr::null_mut()
    }

    fn name(&self) -> String {
        "the CPU".into()
    }

    fn allocate(&self, bytes: usize) -> Result<*mut c_void> {
        memory::allocate(bytes)
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    unsafe fn free(&self, address: *mut c_void, bytes: usize) {
        // SAFETY: the caller's promise: allocated above with this size.
        unsafe { memory::free(address, bytes) };
    }

    fn is_host(&self) -> bool {
        true
    }

    fn attention_tile(&self) -> usize {
        ENGINE_HOST_ATTENTION_TILE as usize
    }

    fn logits_bytes(&self) -> usize {
        384 << 20
    }

    fn captures_graphs(&self) -> bool {
        false
    }

    fn free_bytes(&self) -> Option<u64> {
        room::available()
    }

    unsafe fn upload(&self, to: *mut c_void, from: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.cast(), from.len()) };
        Ok(())
    }

    unsafe fn download(&self, to: &mut [u8], from: *const c_void) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { ptr::copy_nonoverlapping(from.cast(), to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    unsafe fn zero(&self, at: *mut c_void, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise; bytes may hold anything.
        let all = unsafe { std::slice::from_raw_parts_mut(at.cast::<MaybeUninit<u8>>(), bytes) };
        all.par_chunks_mut(ZEROED_AT_ONCE).for_each(|part| part.fill(MaybeUninit::new(0)));
        Ok(())
    }

    fn choices(&self) -> Option<String> {
        Some(Kernel::chosen().name().to_owned())
    }

    fn choose(&self, choices: &str) -> bool {
        Kernel::choose(choices)
    }

    fn own_choice(&self) -> Option<String> {
        let own = Kernel::of_machine().filter(|own| *own != Kernel::chosen())?.name();
        Some(format!("`{own}`, which {VARIABLE}={own} takes"))
    }

    unsafe fn product(&self, product: &Product) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { products::multiply(product) };
        Ok(())
    }

    fn searches(&self, dtype: DType) -> bool {
        matches!(dtype, DType::F32 | DType::Bf16) && search::bytes::Kernel::fastest().is_some()
    }

    unsafe fn search(&self, weight: *const c_void, shape: [usize; 2], dtype: DType) -> Option<Box<dyn Search>> {
        let kernel = search::bytes::Kernel::fastest()?;
        // SAFETY: the caller's promise.
        unsafe {
            match dtype {
                DType::F32 => Some(Box::new(search::HeadSearch::new(kernel, weight.cast::<f32>(), shape))),
                DType::Bf16 => Some(Box::new(search::HeadSearch::new(kernel, weight.cast::<bf16>(), shape))),
                _ => None,
            }
        }
    }
}
