//! The table of launchers as the host implements it, and what all of them share: pointers become slices, a panic becomes a
//! status, and the element type is chosen.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;

use super::{adamw, add, attention, cast, clip, cross_entropy, embedding, geglu, rmsnorm, rope, sample};
use crate::device::bindings::{engine_kernels, engine_status};
use crate::device::kernels::Kernels;

/// The launchers in Rust.
pub(super) fn kernels() -> Kernels {
    Kernels { table: &TABLE.0 }
}

struct Table(engine_kernels);
// SAFETY: function pointers and a constant string: nothing that a thread could change.
unsafe impl Sync for Table {}

static TABLE: Table = Table(engine_kernels {
    device: c"cpu".as_ptr(),
    last_error: Some(last_error),
    rmsnorm_forward: Some(rmsnorm::rmsnorm_forward),
    rmsnorm_backward: Some(rmsnorm::rmsnorm_backward),
    rope_forward: Some(rope::rope_forward),
    rope_backward: Some(rope::rope_backward),
    attention_forward: Some(attention::attention_forward),
    attention_backward: Some(attention::attention_backward),
    attention_decode: Some(attention::attention_decode),
    geglu_forward: Some(geglu::geglu_forward),
    geglu_backward: Some(geglu::geglu_backward),
    embedding_forward: Some(embedding::embedding_forward),
    embedding_backward: Some(embedding::embedding_backward),
    clip_factor: Some(clip::clip_factor),
    adamw: Some(adamw::adamw),
    cross_entropy: Some(cross_entropy::cross_entropy),
    sample: Some(sample::sample),
    cast: Some(cast::cast),
    add: Some(add::add),
});

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

unsafe extern "C" fn last_error() -> *const c_char {
    LAST_ERROR.with_borrow(|message| message.as_ptr())
}

/// Runs a launcher's work; a panic in it (a mistake of this crate) must not pass through C, and becomes its status.
pub(super) fn run(work: impl FnOnce()) -> engine_status {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(()) => engine_status::ENGINE_OK,
        Err(panic) => {
            LAST_ERROR.set(CString::new(message(&*panic)).unwrap_or_default());
            engine_status::ENGINE_BAD_ARGUMENT
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    format!("internal: {}", text.unwrap_or("a panic")).replace('\0', "")
}

/// `with_dtype!(dtype, T => expression)`: runs the expression with `T` bound to the element type.
macro_rules! with_dtype {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::device::bindings::engine_dtype::ENGINE_F32 => {
                type $t = f32;
                $body
            }
            $crate::device::bindings::engine_dtype::ENGINE_BF16 => {
                type $t = half::bf16;
                $body
            }
            $crate::device::bindings::engine_dtype::ENGINE_F64 => {
                type $t = f64;
                $body
            }
        }
    };
}
pub(super) use with_dtype;

/// `len` elements that a launcher reads.
///
/// # Safety
/// They are there, initialised and unchanged for as long as the slice is used; any pointer will do when there are none.
pub(super) unsafe fn elements<'a, T>(from: *const c_void, len: usize) -> &'a [T] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(from.cast(), len) }
}

/// `len` elements that a launcher writes.
///
/// # Safety
/// As [`elements`], and nobody else uses them meanwhile.
pub(super) unsafe fn elements_mut<'a, T>(to: *mut c_void, len: usize) -> &'a mut [T] {
    if len == 0 {
        return &mut [];
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts_mut(to.cast(), len) }
}
