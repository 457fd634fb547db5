//! The emulator catches what it promises to: every planted fault in kernels/emulator/tests.cu, under any order.

use std::ffi::{CStr, CString, c_char, c_void};

use engine::device::bindings::engine_status::{self, *};
use engine::emulated::seed;
use half::bf16;

use crate::buffer::{Buffer, device};

unsafe extern "C" {
    fn engine_emulator_test(name: *const c_char, fault: u32, out: *mut f32, input: *const c_void) -> engine_status;
}

/// Runs a test kernel; its status, its message and what it wrote.
fn run(name: &str, fault: u32) -> (engine_status, String, Vec<f32>) {
    let name = CString::new(name).unwrap();
    let mut out = Buffer::<f32>::new(if name.as_bytes() == b"product" { 128 } else { 64 }).unwrap();
    let floats: Vec<f32> = (0..64).map(|i| i as f32 - 20.0).collect();
    let (a, b) = matrices();
    let halves: Vec<bf16> = a.iter().chain(&b).map(|&x| bf16::from_f32(x)).collect();
    let floats = Buffer::from_slice(&floats).unwrap();
    let halves = Buffer::from_slice(&halves).unwrap();
    let input = if name.as_bytes() == b"product" { halves.as_ptr().cast() } else { floats.as_ptr().cast() };
    // SAFETY: arrays of the sizes that the test kernels document; where one goes beyond, it stays in the guard bands.
    let status = unsafe { engine_emulator_test(name.as_ptr(), fault, out.as_mut_ptr(), input) };
    // SAFETY: a C string of this thread, copied at once.
    let message = unsafe { CStr::from_ptr(device().driver().kernels().table.last_error.unwrap()()) }
        .to_str()
        .unwrap()
        .to_string();
    let result = out.as_slice().to_vec();
    // What was written beside the array is found once more at its end.
    let beside =
        status == ENGINE_OUT_OF_BOUNDS && message.contains("writes 4 bytes at offset 256 of 256 bytes of global");
    assert_eq!(out.free().is_err(), beside, "{message}");
    (status, message, result)
}

/// a (16, 16) and b (16, 8): small whole numbers, no two rows or columns alike.
fn matrices() -> (Vec<f32>, Vec<f32>) {
    let a = (0..256).map(|i| ((i * 7 + i / 16) % 11) as f32 - 5.0).collect();
    let b = (0..128).map(|i| ((i * 5 + i / 8) % 13) as f32 - 6.0).collect();
    (a, b)
}

fn product() -> Vec<f32> {
    let (a, b) = matrices();
    let entry = |i: usize| (0..16).map(|k| a[i / 8 * 16 + k] * b[k * 8 + i % 8]).sum();
    (0..128).map(entry).collect()
}

/// What the right version of each kernel gives.
fn expected(name: &str) -> Vec<f32> {
    let input: Vec<f32> = (0..64).map(|i| i as f32 - 20.0).collect();
    match name {
        "reverse" => input.into_iter().rev().collect(),
        "sum" => vec![input.iter().sum(); 64],
        "copy" | "bounds" | "early" => input,
        "product" => product(),
        _ => vec![1.0; 64],
    }
}

/// Under 20 orders of threads: the right version passes, the fault is called by its name.
fn check(name: &str, fault: u32, status: engine_status, words: &str) {
    for order in 0..20 {
        seed(order);
        let (right, message, out) = run(name, 0);
        assert_eq!(right, ENGINE_OK, "{name}, order {order}: {message}");
        assert_eq!(out, expected(name), "{name}, order {order}");
        let (wrong, message, _) = run(name, fault);
        assert_eq!(wrong, status, "{name} with fault {fault}, order {order}: {message}");
        assert!(message.contains(words), "{name} with fault {fault}: {message}");
    }
}

#[test]
fn a_missing_barrier_is_caught() {
    check("reverse", 1, ENGINE_RACE, "shared memory");
}

#[test]
fn a_missing_barrier_gives_wrong_values_too() {
    for order in 0..20 {
        seed(order);
        assert_ne!(run("reverse", 1).2, expected("reverse"), "order {order}");
    }
}

#[test]
fn a_race_within_a_block_is_caught() {
    check("sum", 1, ENGINE_RACE, "which thread");
}

#[test]
fn a_race_between_blocks_is_caught() {
    check("blocks", 1, ENGINE_RACE, "of another block wrote");
}

#[test]
fn what_other_blocks_wrote_is_read_behind_a_barrier_a_fence_a_count_and_a_fence() {
    for fault in 1..=3 {
        check("last", fault, ENGINE_RACE, "which thread");
    }
}

#[test]
fn an_asynchronous_copy_is_not_there_before_its_wait() {
    for order in 0..20 {
        seed(order);
        let (status, message, out) = run("copy", 1);
        assert_eq!(status, ENGINE_OK, "order {order}: {message}");
        assert!(out.iter().all(|x| x.is_nan()), "order {order}: {out:?}");
    }
}

#[test]
fn a_wait_that_never_comes_is_caught() {
    check("copy", 2, ENGINE_MISSING_WAIT, "never waited for");
}

#[test]
fn what_comes_before_earlier_kernels_are_waited_for_is_caught() {
    for (fault, words) in [
        (1, "reads global memory before it waits for earlier kernels"),
        (2, "writes global memory before it waits"),
        (3, "thread 0 of block 0 writes global memory before it waits"),
        (4, "begins a copy before it waits"),
        (5, "thread 7 of block 0 reads global memory before it waits"),
    ] {
        check("early", fault, ENGINE_MISSING_WAIT, words);
    }
}

#[test]
fn a_launch_with_more_shared_memory_than_the_kernel_declares_is_caught() {
    check("copy", 3, ENGINE_BAD_ARGUMENT, "launched with 272 bytes of dynamic shared memory; the kernel declares 256");
}

#[test]
fn a_launch_with_more_shared_memory_than_the_smallest_chip_has_is_refused() {
    let words = "`copy_kernel` needs 102400 bytes of shared memory for a block; this GPU has 101376";
    check("copy", 4, ENGINE_LAUNCH_FAILED, words);
}

#[test]
fn a_write_out_of_bounds_is_caught() {
    check(
        "bounds",
        1,
        ENGINE_OUT_OF_BOUNDS,
        "thread 63 of block 0 writes 4 bytes at offset 256 of 256 bytes of global",
    );
}

#[test]
fn a_read_out_of_bounds_is_caught() {
    check("bounds", 2, ENGINE_OUT_OF_BOUNDS, "reads 4 bytes at offset 256 of 256 bytes of global");
}

#[test]
fn shared_memory_has_bounds_too() {
    check("bounds", 3, ENGINE_OUT_OF_BOUNDS, "writes 4 bytes at offset 256 of 256 bytes of shared");
}

#[test]
fn a_barrier_that_some_threads_never_reach_is_caught() {
    check("divergent", 1, ENGINE_DIVERGENT_BARRIER, "tests.cu:");
}

#[test]
fn threads_that_wait_at_different_barriers_are_caught() {
    check("divergent", 2, ENGINE_DIVERGENT_BARRIER, "while another waits at");
}

#[test]
fn a_shuffle_that_some_lanes_never_reach_is_caught() {
    check("divergent", 3, ENGINE_DIVERGENT_BARRIER, "never arrive");
}

#[test]
fn fragments_in_the_wrong_layout_give_a_wrong_product() {
    seed(1);
    let (status, message, out) = run("product", 0);
    assert_eq!(status, ENGINE_OK, "{message}");
    assert_eq!(out, product());
    assert_ne!(run("product", 1).2, product());
}
