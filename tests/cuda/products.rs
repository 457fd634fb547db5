//! What cuBLASLt is told: sums stay in f32, and a product that it cannot do is named by its shape and types.

use std::ffi::c_void;

use cudarc::cublaslt::sys::{
    self, cublasLtMatmulPreferenceAttributes_t as Attribute, cublasLtReductionScheme_t as Scheme,
};
use engine::cuda::products::{Alignments, Preference, Value, WORKSPACE_BYTES, describe, preferences};
use engine::device::DType;
use engine::device::driver::{Operand, Product};

fn value(list: &[Preference], attribute: Attribute) -> Value {
    list.iter().find(|preference| preference.attribute == attribute).expect("it is in the list").value
}

const ALIGNMENTS: Alignments = Alignments { a: 2, b: 16, c: 256 };

#[test]
fn parts_of_a_sum_are_added_in_f32_or_there_are_none() {
    let Value::U32(mask) = value(&preferences(ALIGNMENTS), Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
    else {
        panic!("the mask is a u32");
    };
    let allowed = |scheme: Scheme| mask & scheme as u32 != 0;
    assert!(allowed(Scheme::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    assert!(!allowed(Scheme::CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE));
    assert!(!allowed(Scheme::CUBLASLT_REDUCTION_SCHEME_INPLACE));
    // A sum in one piece has no bit that could forbid it.
    assert_eq!(Scheme::CUBLASLT_REDUCTION_SCHEME_NONE as u32, 0);
}

#[test]
fn an_algorithm_gets_the_scratch_and_the_alignments_there_are() {
    let list = preferences(ALIGNMENTS);
    let scratch = value(&list, Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
    assert_eq!(scratch, Value::U64(WORKSPACE_BYTES as u64));
    // The library's first matrix is our second.
    assert_eq!(value(&list, Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES), Value::U32(16));
    assert_eq!(value(&list, Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES), Value::U32(2));
    assert_eq!(value(&list, Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES), Value::U32(256));
    assert_eq!(value(&list, Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES), Value::U32(256));
}

#[test]
fn the_library_where_there_is_one_keeps_each_preference() {
    // SAFETY: loads the library, which has no side effect beyond its own initialisation.
    if !unsafe { sys::is_culib_present() } {
        eprintln!("cuBLASLt was not found: nothing to ask");
        return;
    }
    let list = preferences(ALIGNMENTS);
    let handle = cudarc::cublaslt::result::create_matmul_pref().unwrap();
    for Preference { attribute, value } in list {
        let (bytes, size) = match value {
            Value::U32(value) => (u64::from(value), 4),
            Value::U64(value) => (value, 8),
        };
        let (mut kept, mut written) = (0u64, 0);
        // SAFETY: the handle is alive; a number of `size` bytes is read and one is written, little end first.
        unsafe {
            sys::cublasLtMatmulPreferenceSetAttribute(handle, attribute, (&raw const bytes).cast(), size)
                .result()
                .unwrap();
            let to = (&raw mut kept).cast();
            let got = sys::cublasLtMatmulPreferenceGetAttribute(handle, attribute, to, size, &raw mut written);
            got.result().unwrap();
        }
        assert_eq!((kept, written), (bytes, size), "{attribute:?}");
    }
    // SAFETY: destroyed once.
    unsafe { cudarc::cublaslt::result::destroy_matmul_pref(handle).unwrap() };
}

#[test]
fn cublaslt_is_looked_for_under_the_name_that_its_wheel_gives_it() {
    let names = cudarc::get_lib_name_candidates("cublasLt");
    for name in ["libcublasLt.so", "libcublasLt.so.13", "libcublasLt.so.12"] {
        assert!(names.iter().any(|known| known == name), "{name} is not in {names:?}");
    }
}

#[test]
fn a_product_is_named_by_its_shape_and_types() {
    let at = |address: usize| address as *const c_void;
    let product = Product {
        c: at(0x1000).cast_mut(),
        a: Operand::new(at(0x1010), 640),
        b: Operand::new(at(0x1002), 648).t(),
        m: 320,
        n: 2048,
        k: 640,
        dtype: DType::Bf16,
        c_dtype: DType::F32,
        accumulate: true,
    };
    let expected = "the product c (320, 2048) F32 += a (320, 640) by 640 x b (640, 2048) transposed by 648 Bf16, \
                    aligned to 16, 16, 2 bytes";
    assert_eq!(describe(&product), expected);
    assert_eq!(Alignments::of(&product), Alignments { a: 16, b: 2, c: 16 });
}
