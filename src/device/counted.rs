//! A device that computes nothing and holds nothing: what a job would take of another device's memory, counted by running
//! the job's own code.
//!
//! Launchers and products return at once, addresses name no memory, and what is downloaded is zeros. So a step costs
//! milliseconds, whatever its size, and its memory is counted without a formula that could go stale.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;

use super::bindings::{engine_kernels, engine_status, engine_stream};
use super::driver::{Driver, Graph, Product};
use super::kernels::Kernels;
use super::{DType, Device};
use crate::error::Result;

/// Addresses begin here, so that none is null.
const FIRST: usize = 1 << 32;

/// A device that counts what it would take of `like`: it asks for tiles, chunks and graphs as that does.
pub fn device(like: &Device) -> Device {
    Device::with_driver(Box::new(Counted { like: like.clone(), next: Cell::new(FIRST) }))
}

struct Counted {
    like: Device,
    /// The next free address.
    next: Cell<usize>,
}

impl Driver for Counted {
    fn kernels(&self) -> Kernels {
        Kernels { table: &TABLE.0 }
    }

    fn stream(&self) -> engine_stream {
        ptr::null_mut()
    }

    fn name(&self) -> String {
        "a device that only counts".into()
    }

    fn allocate(&self, bytes: usize) -> Result<*mut c_void> {
        let address = self.next.get();
        self.next.set(address + bytes.next_multiple_of(256));
        Ok(ptr::without_provenance_mut(address))
    }

    unsafe fn free(&self, _address: *mut c_void, _bytes: usize) {}

    fn keeps_freed_memory(&self) -> bool {
        self.like.driver().keeps_freed_memory()
    }

    fn attention_tile(&self) -> usize {
        self.like.driver().attention_tile()
    }

    fn blocks_at_once(&self) -> usize {
        self.like.driver().blocks_at_once()
    }

    fn joins_products(&self, dtype: DType) -> bool {
        self.like.driver().joins_products(dtype)
    }

    fn logits_bytes(&self) -> usize {
        self.like.driver().logits_bytes()
    }

    fn captures_graphs(&self) -> bool {
        self.like.driver().captures_graphs()
    }

    unsafe fn upload(&self, _to: *mut c_void, _from: &[u8]) -> Result<()> {
        Ok(())
    }

    unsafe fn download(&self, to: &mut [u8], _from: *const c_void) -> Result<()> {
        to.fill(0);
        Ok(())
    }

    unsafe fn zero(&self, _at: *mut c_void, _bytes: usize) -> Result<()> {
        Ok(())
    }

    unsafe fn product(&self, _product: &Product) -> Result<()> {
        Ok(())
    }

    fn begin_capture(&self) -> Result<()> {
        Ok(())
    }

    fn end_capture(&self) -> Result<Box<dyn Graph>> {
        Ok(Box::new(Nothing))
    }
}

struct Nothing;

impl Graph for Nothing {
    fn launch(&self) -> Result<()> {
        Ok(())
    }
}

/// A launcher that does nothing, of any signature.
trait NoOp {
    const NO_OP: Self;
}

macro_rules! no_op {
    ($($argument:ident)*) => {
        impl<$($argument),*> NoOp for unsafe extern "C" fn($($argument),*) -> engine_status {
            const NO_OP: Self = {
                unsafe extern "C" fn no_op<$($argument),*>($(_: $argument),*) -> engine_status {
                    engine_status::ENGINE_OK
                }
                no_op::<$($argument),*>
            };
        }
    };
}
no_op!(A B C D E);
no_op!(A B C D E F);
no_op!(A B C D E F G);
no_op!(A B C D E F G H);
no_op!(A B C D E F G H I);
no_op!(A B C D E F G H I J);
no_op!(A B C D E F G H I J K);
no_op!(A B C D E F G H I J K L);
no_op!(A B C D E F G H I J K L M);
no_op!(A B C D E F G H I J K L M N O P);

struct Table(engine_kernels);
// SAFETY: function pointers and a constant string: nothing that a thread could change.
unsafe impl Sync for Table {}

static TABLE: Table = Table(engine_kernels {
    device: c"counted".as_ptr(),
    last_error: None,
    allow_programmatic_launch: None,
    rmsnorm_forward: Some(NoOp::NO_OP),
    rmsnorm_backward: Some(NoOp::NO_OP),
    rmsnorm_pair_forward: Some(NoOp::NO_OP),
    rmsnorm_pair_backward: Some(NoOp::NO_OP),
    sum_parts: Some(NoOp::NO_OP),
    weight_gradients: Some(NoOp::NO_OP),
    rope_forward: Some(NoOp::NO_OP),
    rope_backward: Some(NoOp::NO_OP),
    attention_forward: Some(NoOp::NO_OP),
    attention_backward: Some(NoOp::NO_OP),
    attention_decode: Some(NoOp::NO_OP),
    rope_attention_decode: Some(NoOp::NO_OP),
    geglu_forward: Some(NoOp::NO_OP),
    geglu_backward: Some(NoOp::NO_OP),
    linear_few_rows: Some(NoOp::NO_OP),
    linear_geglu_forward: Some(NoOp::NO_OP),
    linear_geglu_backward: Some(NoOp::NO_OP),
    embedding_forward: Some(NoOp::NO_OP),
    embedding_backward: Some(NoOp::NO_OP),
    clip_factor: Some(NoOp::NO_OP),
    adamw: Some(NoOp::NO_OP),
    cross_entropy: Some(NoOp::NO_OP),
    sample: Some(NoOp::NO_OP),
    cast: Some(NoOp::NO_OP),
    split_weights: Some(NoOp::NO_OP),
    join_weights: Some(NoOp::NO_OP),
    round_blocks: Some(NoOp::NO_OP),
    dropout: Some(NoOp::NO_OP),
    add: Some(NoOp::NO_OP),
});
