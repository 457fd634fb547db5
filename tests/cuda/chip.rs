//! On a real GPU, where there is one: memory, copies of every size, and what is said when memory ends.

use engine::cuda;
use engine::device::{DType, Device, OutOfMemory, Tensor};

/// The GPU; None, with the reason, on a machine without one.
fn gpu() -> Option<Device> {
    match cuda::missing() {
        Some(missing) => {
            eprintln!("no GPU to test: {missing}");
            None
        }
        None => Some(cuda::device().unwrap()),
    }
}

#[test]
fn copies_of_many_pieces_arrive_whole_while_others_are_under_way() {
    let Some(gpu) = gpu() else { return };
    // One number, about a piece, a piece and one, many pieces: more than there are page-locked buffers.
    let lengths = [1, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, (29 << 20) + 3];
    let numbers = |seed: u32, n: usize| (0..n as u32).map(|i| i.wrapping_mul(2_654_435_761) ^ seed).collect::<Vec<_>>();
    let tensors: Vec<Tensor> = lengths
        .iter()
        .map(|n| {
            let mut tensor = Tensor::empty(&gpu, &[*n], DType::U32).unwrap();
            let mut values = numbers(*n as u32, *n);
            tensor.upload(&values).unwrap();
            values.fill(0); // the copy must not see this
            tensor
        })
        .collect();
    for (tensor, n) in tensors.iter().zip(lengths) {
        assert!(tensor.download::<u32>().unwrap() == numbers(n as u32, n), "{n} numbers");
    }
}

#[test]
fn a_tensor_larger_than_the_gpu_is_a_lack_of_memory_and_leaves_the_gpu_usable() {
    let Some(gpu) = gpu() else { return };
    let error = Tensor::empty(&gpu, &[1 << 42], DType::F32).unwrap_err();
    let lack = OutOfMemory::of(&error).unwrap_or_else(|| panic!("{error:?}"));
    assert!(lack.free > 0 && lack.free < lack.total, "{lack:?}");
    let tensor = Tensor::zeros(&gpu, &[3], DType::F32).unwrap();
    assert_eq!(tensor.download::<f32>().unwrap(), [0.0; 3]);
}

#[test]
fn a_gpu_can_be_closed_and_opened_again() {
    for _ in 0..2 {
        let Some(gpu) = gpu() else { return };
        let tensor = Tensor::from_slice(&gpu, &[2], &[1.5f32, 2.5]);
        assert_eq!(tensor.download::<f32>().unwrap(), [1.5, 2.5]);
    }
}
