//! Memory, copies and what is said when something fails, on the engine's own device.

use cudarc::driver::result::ctx;
use cudarc::driver::sys::CUresult::{self, CUDA_ERROR_OUT_OF_MEMORY};
use engine::device::driver::engine_dtype;
use engine::device::{DType, Device, OutOfMemory, Tensor};
use engine::launch;

use crate::cuda::Settings;
use crate::cuda::facts::LEAST_BYTES;
use crate::machine::{Gpu, USUAL, fail, faults, survey};

/// Takes the context away from this thread, as another library may that uses the GPU.
pub fn unbind() {
    // SAFETY: a null context is none.
    unsafe { ctx::set_current(std::ptr::null_mut()) }.unwrap();
}

fn numbers(seed: u32, n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| i.wrapping_mul(2_654_435_761) ^ seed).collect()
}

/// Adds `n` numbers of `term` to `sum`.
pub fn add(device: &Device, sum: &mut Tensor, term: &Tensor, n: u64) -> engine::error::Result<()> {
    let (driver, dtype) = (device.driver(), engine_dtype(DType::F32));
    let sum = sum.address_mut()?;
    // SAFETY: what a test wants; beyond the tensors are the emulator's guard bands.
    unsafe { launch!(driver, add { n }(sum, term.address(), n, dtype, driver.stream())) }
}

#[test]
fn copies_of_many_pieces_arrive_whole_while_others_are_under_way() {
    let gpu = Gpu::new();
    let device = gpu.open().unwrap();
    // Small ones, whose buffers larger ones replace while they are read; more pieces than there are page-locked buffers;
    // about a piece.
    let lengths = [3, 1, 9, 6, 4, (20 << 20) + 3, 1, (4 << 20) - 1, (4 << 20) + 1, 7, 300_000, 5, 2, 11];
    let upload = |n: usize| {
        let mut tensor = Tensor::empty(&device, &[n], DType::U32).unwrap();
        let mut values = numbers(n as u32, n);
        tensor.upload(&values).unwrap();
        values.fill(0); // the copy must not see this
        tensor
    };
    let tensors = lengths.map(upload);
    for (tensor, n) in tensors.iter().zip(lengths) {
        assert!(tensor.download::<u32>().unwrap() == numbers(n as u32, n), "{n} numbers");
    }
}

#[test]
fn nothing_is_copied_and_nothing_is_filled_where_there_is_nothing() {
    let gpu = Gpu::new();
    let device = gpu.open().unwrap();
    let mut empty = Tensor::zeros(&device, &[0], DType::F32).unwrap();
    empty.upload::<f32>(&[]).unwrap();
    assert_eq!(empty.download::<f32>().unwrap(), [0.0; 0]);
    let nothing = device.driver().allocate(0).unwrap();
    // SAFETY: allocated above.
    unsafe { device.driver().free(nothing, 0) };
}

#[test]
fn every_call_makes_the_gpu_the_threads_own() {
    let gpu = Gpu::new();
    unbind();
    let device = gpu.open().unwrap();
    let bound = || unbind();
    bound();
    let mut x = Tensor::empty(&device, &[3], DType::F32).unwrap();
    bound();
    x.upload(&[1.0f32, 2.0, 3.0]).unwrap();
    bound();
    let mut sum = Tensor::zeros(&device, &[3], DType::F32).unwrap();
    bound();
    sum.zero().unwrap();
    bound();
    sum.add(&x).unwrap();
    bound();
    assert_eq!(sum.download::<f32>().unwrap(), [1.0, 2.0, 3.0]);
    let numbers = Tensor::from_slice(&device, &[2, 2], &[1.0f32; 4]);
    let mut product = Tensor::zeros(&device, &[2, 2], DType::F32).unwrap();
    bound();
    crate::products::square(&mut product, &numbers, 2);
    bound();
    assert!(device.driver().free_bytes().unwrap() > 0);
    bound();
    device.driver().begin_capture().unwrap();
    bound();
    sum.add(&x).unwrap();
    bound();
    let graph = device.driver().end_capture().unwrap();
    bound();
    graph.launch().unwrap();
    bound();
    assert_eq!(sum.download::<f32>().unwrap(), [2.0, 4.0, 6.0]);
    bound();
    drop(graph);
    drop((sum, x));
    bound();
    device.trim();
    bound();
}

#[test]
fn two_gpus_take_turns_on_a_thread() {
    let gpus = [Gpu::new(), Gpu::new()];
    let devices = [0, 1].map(|i| gpus[i].open().unwrap());
    let mut sums = [0, 1].map(|i| Tensor::from_slice(&devices[i], &[2], &[i as f32, 10.0]));
    let terms = [0, 1].map(|i| Tensor::from_slice(&devices[i], &[2], &[5.0, i as f32]));
    for _ in 0..2 {
        for i in [0, 1] {
            sums[i].add(&terms[i]).unwrap();
        }
    }
    assert_eq!(sums[0].download::<f32>().unwrap(), [10.0, 10.0]);
    assert_eq!(sums[1].download::<f32>().unwrap(), [11.0, 12.0]);
    let [first, second] = devices;
    drop(first); // tensors hold it
    assert_eq!(sums[1].download::<f32>().unwrap(), [11.0, 12.0]);
    drop(second);
}

#[test]
fn two_devices_on_a_gpu_have_each_their_own_stream_and_what_belongs_to_it() {
    let gpu = Gpu::new();
    let devices = [(); 2].map(|()| gpu.open().unwrap());
    let driver = |i: usize| devices[i].driver();
    assert_ne!(driver(0).stream(), driver(1).stream());
    let mut tensors = [0, 1].map(|i| Tensor::from_slice(&devices[i], &[4, 4], &[1.0f32 + i as f32; 16]));
    let mut products = [0, 1].map(|i| Tensor::zeros(&devices[i], &[4, 4], DType::F32).unwrap());
    for _ in 0..2 {
        for i in [0, 1] {
            crate::products::square(&mut products[i], &tensors[i], 4);
            tensors[i].upload(&[3.0f32 + i as f32; 16]).unwrap();
        }
    }
    assert_eq!(products[0].download::<f32>().unwrap(), [36.0; 16]);
    assert_eq!(products[1].download::<f32>().unwrap(), [64.0; 16]);
}

#[test]
fn a_gpu_can_be_closed_and_opened_again() {
    let gpu = Gpu::new();
    for _ in 0..2 {
        let device = gpu.open().unwrap();
        assert_eq!(device.driver().name(), format!("Stand-in {}", gpu.index));
        let mut tensor = Tensor::from_slice(&device, &[2], &[1.5f32, 2.5]);
        let term = Tensor::from_slice(&device, &[2], &[1.0f32, 1.0]);
        tensor.add(&term).unwrap();
        assert_eq!(tensor.download::<f32>().unwrap(), [2.5, 3.5]);
    }
}

#[test]
fn a_tensor_larger_than_the_gpu_is_a_lack_of_memory_and_leaves_the_gpu_usable() {
    let gpu = Gpu::new();
    gpu.set_total(3_000_000_000);
    let device = gpu.open().unwrap();
    let error = Tensor::empty(&device, &[1 << 30], DType::F32).unwrap_err();
    let lack = OutOfMemory::of(&error).unwrap_or_else(|| panic!("{error:?}"));
    assert_eq!((lack.wanted, lack.total), (Some(4 << 30), 3_000_000_000));
    assert!(lack.free < lack.total && lack.free as u64 == device.driver().free_bytes().unwrap(), "{lack:?}");
    // Asked for once more after the pool was given back.
    let all = faults();
    assert!(
        all.len() == 2 && all.iter().all(|fault| fault.contains("cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY")),
        "{all:?}"
    );
    assert_eq!(Tensor::zeros(&device, &[3], DType::F32).unwrap().download::<f32>().unwrap(), [0.0; 3]);
}

#[test]
fn a_gpu_that_others_have_filled_is_refused() {
    let gpu = Gpu::new();
    gpu.set_total(LEAST_BYTES + 1000);
    let _first = gpu.open().unwrap();
    let error = gpu.open().err().unwrap().report();
    assert!(error.contains("has free 1.97 GB"), "{error}");
}

#[test]
fn the_machine_is_as_the_driver_says() {
    let gpu = Gpu::new();
    gpu.set_total(5_000_000_000);
    let survey = survey();
    assert_eq!((survey.machine.driver, survey.machine.cublaslt), (Some(13_000), Some(130_000)));
    assert!(survey.fault().is_none());
    let found = &survey.gpus[gpu.index];
    assert_eq!((found.index, found.capability, found.total_bytes), (gpu.index, (9, 0), 5_000_000_000));
    assert_eq!((found.name.as_str(), found.prohibited), (format!("Stand-in {}", gpu.index).as_str(), false));
}

#[test]
fn a_kernel_that_fails_is_told_when_somebody_waits() {
    let gpu = std::mem::ManuallyDrop::new(Gpu::new()); // what a broken context has cannot be given back
    let device = gpu.open().unwrap();
    let mut sum = Tensor::zeros(&device, &[16], DType::F32).unwrap();
    let term = Tensor::zeros(&device, &[16], DType::F32).unwrap();
    add(&device, &mut sum, &term, 100).unwrap();
    let error = sum.download::<f32>().unwrap_err().report();
    assert!(error.contains("copying from the GPU") && error.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{error}");
    assert!(error.contains("ENGINE_DEBUG_SYNC=1"), "{error}");
    faults();
}

#[test]
fn a_kernel_that_fails_is_told_by_its_name_when_every_op_is_waited_for() {
    let gpu = std::mem::ManuallyDrop::new(Gpu::new());
    let device = gpu.open_with(Settings { debug_sync: true, ..USUAL }).unwrap();
    let mut sum = Tensor::zeros(&device, &[16], DType::F32).unwrap();
    let term = Tensor::zeros(&device, &[16], DType::F32).unwrap();
    let error = add(&device, &mut sum, &term, 100).unwrap_err().report();
    assert!(error.starts_with("error: add") && error.contains("waits for every op: this one failed"), "{error}");
    faults();
}

/// The copy fails with what it says, gives back what it took, and the next one works.
#[track_caller]
fn survives(call: &str, code: CUresult) {
    let gpu = Gpu::new();
    let device = gpu.open().unwrap();
    let mut tensor = Tensor::zeros(&device, &[4], DType::F32).unwrap();
    fail(call, 0, code);
    let error = tensor.upload(&[1.0f32; 4]).unwrap_err().report();
    assert!(error.contains("copying to the GPU") && error.contains(&format!("{code:?}")), "{error}");
    assert_eq!(faults(), [format!("{call}: {code:?}: the test wants it so")]);
    tensor.upload(&[2.0f32; 4]).unwrap();
    assert_eq!(tensor.download::<f32>().unwrap(), [2.0; 4]);
}

#[test]
fn a_copy_that_fails_leaves_nothing_behind() {
    survives("cuMemHostAlloc", CUDA_ERROR_OUT_OF_MEMORY);
    survives("cuEventCreate", CUDA_ERROR_OUT_OF_MEMORY);
    survives("cuMemcpyHtoDAsync_v2", CUresult::CUDA_ERROR_UNKNOWN);
    survives("cuEventRecord", CUresult::CUDA_ERROR_UNKNOWN);
}
