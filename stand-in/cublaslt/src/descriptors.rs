//! Handles, descriptors, layouts and preferences: what they are, and how they are made, set and destroyed.

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::sync::Mutex;
use std::thread::ThreadId;

use cudarc::cublaslt::sys::{
    cublasComputeType_t as Compute, cublasLtHandle_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulPreference_t,
    cublasLtMatmulPreferenceAttributes_t as Preference, cublasLtMatrixLayout_t, cublasStatus_t as Status,
    cudaDataType_t as Type,
};

use crate::abi::Take;
use crate::driver::{Outcome, answer, current, fault};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Matmul {
    pub compute: Compute,
    pub scale: Type,
    pub transposed: [bool; 2],
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Layout {
    pub dtype: Type,
    pub rows: u64,
    pub cols: u64,
    pub ld: i64,
}

/// With NVIDIA's defaults.
#[derive(Clone, Copy, Debug)]
pub struct Preferences {
    pub workspace: u64,
    pub reductions: u32,
    /// Of A, B, C, D.
    pub alignments: [u32; 4],
}

#[derive(Clone, Copy)]
pub enum Object {
    Handle { gpu: i32 },
    Matmul(Matmul),
    Layout(Layout),
    Preferences(Preferences),
}

/// All objects that are not destroyed, with the thread that made them.
struct Objects {
    /// So far.
    made: u64,
    by_handle: BTreeMap<u64, (ThreadId, Object)>,
}

static OBJECTS: Mutex<Objects> = Mutex::new(Objects { made: 0, by_handle: BTreeMap::new() });

/// A handle that nobody had before, and no address: those of objects are even.
fn add(object: Object) -> u64 {
    let mut objects = OBJECTS.lock().expect("nobody panics with it");
    objects.made += 1;
    let handle = objects.made * 8 + 1;
    objects.by_handle.insert(handle, (std::thread::current().id(), object));
    handle
}

pub fn get(handle: u64) -> Outcome<Object> {
    let objects = OBJECTS.lock().expect("nobody panics with it");
    let found = objects.by_handle.get(&handle).map(|(_, object)| *object);
    found.map_or_else(|| fault(Status::CUBLAS_STATUS_INVALID_VALUE, "no object of this library, or destroyed"), Ok)
}

fn change(handle: u64, by: impl FnOnce(&mut Object) -> Outcome) -> Outcome {
    let mut objects = OBJECTS.lock().expect("nobody panics with it");
    match objects.by_handle.get_mut(&handle) {
        Some((_, object)) => by(object),
        None => fault(Status::CUBLAS_STATUS_INVALID_VALUE, "no object of this library, or destroyed"),
    }
}

fn remove(handle: u64, is: fn(&Object) -> bool) -> Outcome {
    if !is(&get(handle)?) {
        return fault(Status::CUBLAS_STATUS_INVALID_VALUE, "an object of another kind");
    }
    OBJECTS.lock().expect("nobody panics with it").by_handle.remove(&handle);
    Ok(())
}

/// The type of object that a function takes.
macro_rules! object {
    ($function:ident, $variant:ident, $type:ty) => {
        pub fn $function(handle: u64) -> Outcome<$type> {
            match get(handle)? {
                Object::$variant(found) => Ok(found),
                _ => fault(Status::CUBLAS_STATUS_INVALID_VALUE, "an object of another kind"),
            }
        }
    };
}
object!(matmul, Matmul, Matmul);
object!(layout, Layout, Layout);
object!(preferences, Preferences, Preferences);

/// An error when the library was opened for another GPU than that of this thread.
pub fn require_handle(handle: u64) -> Outcome {
    match get(handle) {
        Ok(Object::Handle { gpu }) if gpu == current()? => Ok(()),
        Ok(Object::Handle { gpu }) => fault(
            Status::CUBLAS_STATUS_INVALID_VALUE,
            format!("the library was opened for GPU {gpu}, which is not current"),
        ),
        _ => fault(Status::CUBLAS_STATUS_NOT_INITIALIZED, "no handle of the library"),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtCreate(made: *mut cublasLtHandle_t) -> Status {
    answer("cublasLtCreate", || {
        let handle = add(Object::Handle { gpu: current()? });
        // SAFETY: the caller's.
        unsafe { *made = handle as cublasLtHandle_t };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtDestroy(handle: cublasLtHandle_t) -> Status {
    answer("cublasLtDestroy", || {
        require_handle(handle as u64)?;
        remove(handle as u64, |object| matches!(object, Object::Handle { .. }))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulDescCreate(
    made: *mut cublasLtMatmulDesc_t,
    compute: Compute,
    scale: Type,
) -> Status {
    let handle = add(Object::Matmul(Matmul { compute, scale, transposed: [false; 2] }));
    // SAFETY: the caller's.
    unsafe { *made = handle as cublasLtMatmulDesc_t };
    Status::CUBLAS_STATUS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulDescDestroy(handle: cublasLtMatmulDesc_t) -> Status {
    answer("cublasLtMatmulDescDestroy", || remove(handle as u64, |object| matches!(object, Object::Matmul(_))))
}

/// The value that an attribute of `size` bytes is set to.
unsafe fn value(from: *const c_void, size: usize, expected: usize) -> Outcome<u64> {
    if from.is_null() || size != expected {
        let why = format!("a value of {size} bytes; the attribute has {expected}");
        return fault(Status::CUBLAS_STATUS_INVALID_VALUE, why);
    }
    // SAFETY: the caller of the library says that so many bytes are there.
    Ok(unsafe {
        match size {
            4 => u64::from(from.cast::<u32>().read_unaligned()),
            _ => from.cast::<u64>().read_unaligned(),
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulDescSetAttribute(
    handle: cublasLtMatmulDesc_t,
    attribute: Attribute,
    from: *const c_void,
    size: usize,
) -> Status {
    answer("cublasLtMatmulDescSetAttribute", || {
        let which = match attribute {
            Attribute::CUBLASLT_MATMUL_DESC_TRANSA => 0,
            Attribute::CUBLASLT_MATMUL_DESC_TRANSB => 1,
            other => return fault(Status::CUBLAS_STATUS_NOT_SUPPORTED, format!("{other:?} is not known here")),
        };
        // SAFETY: the caller's promise.
        let transposed = match unsafe { value(from, size, 4)? } {
            0 => false,
            // The transpose and the conjugate transpose: these are real numbers.
            1 | 2 => true,
            other => return fault(Status::CUBLAS_STATUS_INVALID_VALUE, format!("{other} is no operation")),
        };
        change(handle as u64, |object| match object {
            Object::Matmul(matmul) => {
                matmul.transposed[which] = transposed;
                Ok(())
            }
            _ => fault(Status::CUBLAS_STATUS_INVALID_VALUE, "an object of another kind"),
        })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatrixLayoutCreate(
    made: *mut cublasLtMatrixLayout_t,
    dtype: Type,
    rows: u64,
    cols: u64,
    ld: i64,
) -> Status {
    let handle = add(Object::Layout(Layout { dtype, rows, cols, ld }));
    // SAFETY: the caller's.
    unsafe { *made = handle as cublasLtMatrixLayout_t };
    Status::CUBLAS_STATUS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatrixLayoutDestroy(handle: cublasLtMatrixLayout_t) -> Status {
    answer("cublasLtMatrixLayoutDestroy", || remove(handle as u64, |object| matches!(object, Object::Layout(_))))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulPreferenceCreate(made: *mut cublasLtMatmulPreference_t) -> Status {
    let handle = add(Object::Preferences(Preferences { workspace: 0, reductions: 7, alignments: [256; 4] }));
    // SAFETY: the caller's.
    unsafe { *made = handle as cublasLtMatmulPreference_t };
    Status::CUBLAS_STATUS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulPreferenceDestroy(handle: cublasLtMatmulPreference_t) -> Status {
    answer("cublasLtMatmulPreferenceDestroy", || {
        remove(handle as u64, |object| matches!(object, Object::Preferences(_)))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    handle: cublasLtMatmulPreference_t,
    attribute: Preference,
    from: *const c_void,
    size: usize,
) -> Status {
    use Preference::*;
    answer("cublasLtMatmulPreferenceSetAttribute", || {
        let expected = if attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES { 8 } else { 4 };
        // SAFETY: the caller's promise.
        let value = unsafe { value(from, size, expected)? };
        change(handle as u64, |object| {
            let Object::Preferences(preferences) = object else {
                return fault(Status::CUBLAS_STATUS_INVALID_VALUE, "an object of another kind");
            };
            match attribute {
                CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES => preferences.workspace = value,
                CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK => preferences.reductions = value as u32,
                CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES => preferences.alignments[0] = value as u32,
                CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES => preferences.alignments[1] = value as u32,
                CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES => preferences.alignments[2] = value as u32,
                CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES => preferences.alignments[3] = value as u32,
                other => return fault(Status::CUBLAS_STATUS_NOT_SUPPORTED, format!("{other:?} is not known here")),
            }
            Ok(())
        })
    })
}

/// Hands on what this thread has made and not destroyed.
///
/// # Safety
/// `take` takes `to` and a C string that it copies.
#[unsafe(no_mangle)]
unsafe extern "C" fn stand_in_cublaslt_leftovers(take: Take, to: *mut c_void) {
    let thread = std::thread::current().id();
    let left =
        OBJECTS.lock().expect("nobody panics with it").by_handle.values().filter(|(of, _)| *of == thread).count();
    if left > 0 {
        let line = CString::new(format!("{left} objects of cuBLASLt were not destroyed")).unwrap_or_default();
        // SAFETY: the caller's promise.
        unsafe { take(to, line.as_ptr()) };
    }
}
