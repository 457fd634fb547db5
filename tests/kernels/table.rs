//! The tables themselves: complete, and clear about what goes wrong.

use engine::device::bindings::engine_dtype::{ENGINE_BF16, ENGINE_F32};
use engine::device::bindings::engine_sampling;
use engine::device::kernels::Kernels;
use engine::launch;

use crate::buffer::{Buffer, device};

#[test]
fn every_table_is_complete_and_says_whose_it_is() {
    let host = engine::host::device().driver().kernels();
    for (name, kernels) in [("cpu", Some(host)), ("emulated", Kernels::emulated()), ("cuda", Kernels::cuda())] {
        let Some(kernels) = kernels else { continue };
        assert_eq!(kernels.device(), name);
        let words = size_of_val(kernels.table) / size_of::<usize>();
        // SAFETY: a struct of pointers, which may be null.
        let table = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(kernels.table).cast::<usize>(), words) };
        assert!(table.iter().all(|&pointer| pointer != 0), "`{name}` lacks a launcher: {table:x?}");
    }
}

/// A panic in Rust must not pass through C.
#[test]
fn a_panic_in_a_launcher_of_the_host_is_an_error_that_names_the_op_and_its_shapes() {
    let (device, r, v) = (engine::host::device(), 1, 1);
    let (sampling, none) = (engine_sampling { temperature: -1.0, top_k: 0, top_p: 1.0 }, std::ptr::null_mut::<u8>());
    // SAFETY: it fails before it reads or writes.
    let result = unsafe {
        let (tokens, best, logits, uniforms, stream) =
            (none.cast(), none.cast(), none.cast(), none.cast(), none.cast());
        launch!(device.driver(), sample { r, v }(tokens, best, logits, uniforms, &sampling, r, v, ENGINE_F32, stream))
    };
    assert_eq!(result.unwrap_err().to_string(), "sample of R 1, V 1 on `cpu`: internal: a temperature of -1");
}

/// A GPU does not tell of a read too far; the emulator does.
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
        launch!(device.driver(), rmsnorm_forward { n, d }(y, rstd, x, weight, n, d, 1e-6, ENGINE_BF16, null))
    };
    let message = result.unwrap_err().to_string();
    assert!(message.starts_with("rmsnorm_forward of N 3, D 16 on `emulated`: "), "{message}");
    assert!(message.contains("reads 16 bytes at offset 80 of 94 bytes of global memory"), "{message}");
}
