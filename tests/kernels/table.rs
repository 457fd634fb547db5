//! The table itself: complete, and clear about what goes wrong.

use engine::device::bindings::engine_dtype::ENGINE_BF16;
use engine::device::bindings::engine_kernels;
use engine::device::kernels::Kernels;
use engine::launch;

use crate::buffer::{Buffer, device};

/// The emulated device's, whatever the tests of kernels run on: a GPU does not tell of a read too far.
fn kernels() -> Kernels {
    Kernels::emulated().expect("built with the emulator")
}

#[test]
fn the_table_is_complete_and_says_whose_it_is() {
    assert_eq!(kernels().device(), "emulated");
    let words = size_of::<engine_kernels>() / size_of::<usize>();
    // SAFETY: a struct of pointers, which may be null.
    let table = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(kernels().table).cast::<usize>(), words) };
    assert!(table.iter().all(|&pointer| pointer != 0), "{table:x?}");
}

#[test]
fn a_failed_launch_names_the_op_its_shapes_and_the_fault() {
    let (device, n, d) = (device(), 3, 16);
    let x = Buffer::<u16>::from_slice(&[0; 47]).unwrap(); // one short
    let weight = Buffer::<u16>::from_slice(&[0; 16]).unwrap();
    let mut y = Buffer::<u16>::new(48).unwrap();
    let mut rstd = Buffer::<f32>::new(3).unwrap();
    let (y, rstd) = (y.as_mut_ptr().cast(), rstd.as_mut_ptr().cast());
    let (x, weight) = (x.as_ptr().cast(), weight.as_ptr().cast());
    let null = std::ptr::null_mut();
    // SAFETY: one array is too short, which the emulator notes before it matters: guard bands lie around it.
    let result = unsafe {
        launch!(device.driver(), rmsnorm_forward { n, d }(y, rstd, null, x, weight, n, d, 1e-6, ENGINE_BF16, null))
    };
    let message = result.unwrap_err().to_string();
    assert!(message.starts_with("rmsnorm_forward of N 3, D 16 on `emulated`: "), "{message}");
    assert!(message.contains("reads 16 bytes at offset 80 of 94 bytes of global memory"), "{message}");
}
