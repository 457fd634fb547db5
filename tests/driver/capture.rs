//! Graphs: what may be captured, and what an error leaves behind.

use cudarc::driver::result::stream;
use cudarc::driver::sys::CUresult::{self, CUDA_ERROR_OUT_OF_MEMORY};
use engine::device::{DType, Device, OutOfMemory, Tensor};
use engine::error::Error;

use crate::machine::{Gpu, fail, faults};

/// A sum that starts as 0 and a term of 1 on a new device.
fn sum_and_term(device: &Device) -> (Tensor, Tensor) {
    (Tensor::zeros(device, &[2], DType::F32).unwrap(), Tensor::from_slice(device, &[2], &[1.0f32; 2]))
}

#[test]
fn a_graph_runs_when_it_is_launched_and_as_often() {
    let gpu = Gpu::new();
    let device = gpu.open().unwrap();
    let (mut sum, mut term) = sum_and_term(&device);
    device.driver().begin_capture().unwrap();
    sum.zero().unwrap();
    sum.add(&term).unwrap();
    sum.add(&term).unwrap();
    let graph = device.driver().end_capture().unwrap();
    assert_eq!(sum.download::<f32>().unwrap(), [0.0; 2]);
    for value in [3.0, 5.0] {
        term.upload(&[value; 2]).unwrap();
        graph.launch().unwrap();
        graph.launch().unwrap();
        sum.add(&term).unwrap();
        assert_eq!(sum.download::<f32>().unwrap(), [3.0 * value; 2]);
    }
}

#[test]
fn memory_may_be_allocated_while_a_graph_is_captured() {
    let gpu = Gpu::new();
    let device = gpu.open().unwrap();
    let (mut sum, term) = sum_and_term(&device);
    device.driver().begin_capture().unwrap();
    let mut between = Tensor::zeros(&device, &[2], DType::F32).unwrap();
    between.add(&term).unwrap();
    sum.add(&between).unwrap();
    let graph = device.driver().end_capture().unwrap();
    graph.launch().unwrap();
    assert_eq!(sum.download::<f32>().unwrap(), [1.0; 2]);
}

fn is_refused(outcome: Result<(), Error>) {
    let report = outcome.unwrap_err().report();
    assert!(report.contains("internal: ") && report.contains("while a graph is captured"), "{report}");
}

#[test]
fn what_waits_or_copies_is_refused_while_a_graph_is_captured_and_breaks_nothing() {
    let gpu = Gpu::new();
    let device = gpu.open().unwrap();
    let (mut sum, mut term) = sum_and_term(&device);
    device.driver().begin_capture().unwrap();
    sum.add(&term).unwrap();
    is_refused(term.upload(&[7.0f32; 2]));
    is_refused(sum.download::<f32>().map(drop));
    is_refused(device.driver().begin_capture());
    let graph = device.driver().end_capture().unwrap();
    graph.launch().unwrap();
    assert_eq!(sum.download::<f32>().unwrap(), [1.0; 2]);
}

#[test]
fn the_op_that_a_broken_capture_met_first_is_named_and_the_device_lives_on() {
    let gpu = Gpu::new();
    let device = gpu.open().unwrap();
    let (mut sum, term) = sum_and_term(&device);
    device.driver().begin_capture().unwrap();
    device.driver().after_launch("an op before", &[]).unwrap();
    // SAFETY: the device's own stream. No capture allows it.
    unsafe { stream::synchronize(device.driver().stream().cast()) }.unwrap_err();
    let error = device.driver().after_launch("rmsnorm_forward", &[]).unwrap_err().report();
    assert!(error.starts_with("error: rmsnorm_forward") && error.contains("`--cuda-graphs false`"), "{error}");
    assert!(device.driver().end_capture().is_err());
    assert_eq!(faults().len(), 2);
    sum.add(&term).unwrap();
    assert_eq!(sum.download::<f32>().unwrap(), [1.0; 2]);
}

#[test]
fn a_graph_that_cannot_be_made_leaves_the_device_usable() {
    let gpu = Gpu::new();
    let device = gpu.open().unwrap();
    let (mut sum, term) = sum_and_term(&device);
    for call in ["cuGraphInstantiateWithFlags", "cuGraphUpload"] {
        device.driver().begin_capture().unwrap();
        sum.add(&term).unwrap();
        fail(call, 0, CUDA_ERROR_OUT_OF_MEMORY);
        let error = device.driver().end_capture().err().unwrap();
        assert!(OutOfMemory::of(&error).is_some_and(|lack| lack.wanted.is_none() && lack.free > 0), "{error:?}");
        assert_eq!(faults().len(), 1);
    }
    fail("cuStreamBeginCapture_v2", 0, CUresult::CUDA_ERROR_UNKNOWN);
    device.driver().begin_capture().unwrap_err();
    assert_eq!(faults().len(), 1);
    sum.add(&term).unwrap();
    assert_eq!(sum.download::<f32>().unwrap(), [1.0; 2]);
}

#[test]
fn an_error_that_a_destructor_left_behind_does_not_keep_a_capture_from_ending() {
    let gpu = std::mem::ManuallyDrop::new(Gpu::new()); // the graph that could not be destroyed stays
    let device = gpu.open().unwrap();
    let (mut sum, term) = sum_and_term(&device);
    device.driver().begin_capture().unwrap();
    let graph = device.driver().end_capture().unwrap();
    device.driver().begin_capture().unwrap();
    sum.add(&term).unwrap();
    fail("cuGraphExecDestroy", 0, CUresult::CUDA_ERROR_UNKNOWN);
    drop(graph);
    assert!(device.driver().end_capture().is_err());
    assert_eq!(faults().len(), 1);
    sum.add(&term).unwrap();
    assert_eq!(sum.download::<f32>().unwrap(), [1.0; 2]);
    drop((sum, term, device));
    assert_eq!(faults(), [""; 0]);
}

#[test]
fn a_graph_whose_memory_was_freed_is_not_replayed_in_silence() {
    let gpu = std::mem::ManuallyDrop::new(Gpu::new()); // what a broken context has cannot be given back
    let device = gpu.open().unwrap();
    let (mut sum, term) = sum_and_term(&device);
    device.driver().begin_capture().unwrap();
    sum.add(&term).unwrap();
    let graph = device.driver().end_capture().unwrap();
    drop(term);
    device.trim();
    let error = graph.launch().unwrap_err().report();
    assert!(error.contains("launching a graph") && error.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{error}");
    drop((graph, sum, device));
    assert!(faults()[0].contains("add uses"));
}
