//! Errors of the driver say what to do, a lack of memory can be told from all others, and the debug switch is spelt out.

use cudarc::driver::sys::CUresult;
use engine::cuda::faults::described;
use engine::cuda::{debug_sync, programmatic_launch, timed_products};
use engine::device::OutOfMemory;
use engine::err;

#[test]
fn a_kernel_that_failed_long_ago_is_told_with_the_way_to_name_it() {
    use CUresult::*;
    for code in [CUDA_ERROR_ILLEGAL_ADDRESS, CUDA_ERROR_MISALIGNED_ADDRESS, CUDA_ERROR_LAUNCH_FAILED, CUDA_ERROR_ASSERT]
    {
        let report = described("waiting for the GPU", code, "a kernel failed").report();
        assert!(report.starts_with("error: waiting for the GPU: a kernel failed"), "{report}");
        assert!(report.contains(&format!("{code:?}")) && report.contains("ENGINE_DEBUG_SYNC=1"), "{report}");
    }
}

#[test]
fn what_the_hardware_or_a_display_did_is_not_blamed_on_an_op() {
    use CUresult::*;
    let advice = [
        (CUDA_ERROR_LAUNCH_TIMEOUT, "display"),
        (CUDA_ERROR_ECC_UNCORRECTABLE, "hardware"),
        (CUDA_ERROR_NO_BINARY_FOR_GPU, "update the driver"),
        (CUDA_ERROR_DEVICE_UNAVAILABLE, "another program"),
        (CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "`--cuda-graphs false`"),
    ];
    for (code, helps) in advice {
        let report = described("an op", code, "it failed").report();
        assert!(report.contains(helps) && !report.contains("ENGINE_DEBUG_SYNC"), "{report}");
    }
}

#[test]
fn a_lack_of_memory_is_a_cause_that_is_found_under_any_context() {
    let lack = OutOfMemory { wanted: Some(3_000_000_000), free: 1_250_000_000, total: 80_000_000_000 };
    let error = lack.while_doing("allocating memory on the GPU").context("a tensor of shape [3]").context("a step");
    assert_eq!(OutOfMemory::of(&error), Some(lack));
    let report = error.report();
    for part in ["a step", "[3]", "3.00 GB more", "1.25 GB of 80.00 GB are free", "`--per-device-train-batch-size`"] {
        assert!(report.contains(part), "no `{part}` in {report}");
    }
    let graph = OutOfMemory { wanted: None, ..lack }.while_doing("making a graph");
    assert!(graph.report().contains("out of memory: 1.25 GB of 80.00 GB are free"), "{}", graph.report());
    assert_eq!(
        OutOfMemory::of(&err!("allocating memory on the GPU: an illegal memory access").context("a step")),
        None
    );
}

#[test]
fn the_debug_switch_is_1_or_0() {
    for (value, on) in [(None, false), (Some(""), false), (Some("0"), false), (Some("1"), true)] {
        assert_eq!(debug_sync(value).unwrap(), on);
    }
    let error = debug_sync(Some("yes")).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.report().contains("`yes`"), "{}", error.report());
}

#[test]
fn products_are_timed_unless_the_environment_says_otherwise() {
    for (value, timed) in [(None, true), (Some(""), true), (Some("timed"), true), (Some("heuristic"), false)] {
        assert_eq!(timed_products(value).unwrap(), timed);
    }
    let error = timed_products(Some("fast")).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.report().contains("ENGINE_PRODUCTS is `fast`"), "{}", error.report());
}

#[test]
fn kernels_begin_early_unless_the_environment_says_otherwise() {
    for (value, early) in [(None, true), (Some(""), true), (Some("1"), true), (Some("0"), false)] {
        assert_eq!(programmatic_launch(value).unwrap(), early);
    }
    let error = programmatic_launch(Some("no")).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.report().contains("ENGINE_PROGRAMMATIC_LAUNCH is `no`"), "{}", error.report());
}

#[test]
fn logits_take_a_sixteenth_of_the_memory_within_bounds() {
    let gigabytes = [8, 24, 80, 192].map(|gib: usize| engine::cuda::logits_bytes(gib << 30) >> 20);
    assert_eq!(gigabytes, [1024, 1536, 4096, 4096]);
}
