//! clip: the global norm of the gradients and the factor that limits it.

use engine::device::Device;
use engine::ops::clip::{clip_factor, global_norm};

use crate::cases::{poisoned_device, random, rng, tensor};

/// Lengths around the blocks of the sum: 1,024 in f32, 65,536 to a task.
const LENGTHS: [usize; 9] = [1, 2, 17, 1023, 1025, 65_535, 65_536, 65_537, 200_003];

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[test]
fn the_norm_is_the_root_of_the_sum_of_squares() {
    for n in LENGTHS {
        let x = random(&mut rng(n as u64), n, 3.0);
        let (wide, narrow) = (tensor::<f64>(&Device::cpu(), &[n], &x), tensor::<f32>(&Device::cpu(), &[n], &x));
        // 1e-16 an addition, of positive terms.
        assert!((global_norm(&wide) / norm(&x) - 1.0).abs() < 1e-16 * (n as f64 + 8.0), "f64 of {n}");
        // Squares and sums round in f32 within a block of 1,024 that is kept in 16 running sums: 64 + 16 additions.
        assert!((global_norm(&narrow) / norm(&x) - 1.0).abs() < 81.0 * f32::EPSILON as f64, "f32 of {n}");
    }
}

#[test]
fn the_norm_repeats_to_the_bit_on_any_number_of_threads() {
    let x = random(&mut rng(1), 200_003, 3.0);
    let run = || global_norm(&tensor::<f32>(&poisoned_device(), &[x.len()], &x)).to_bits();
    let first = run();
    for threads in [1, 3] {
        assert_eq!(rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run), first);
    }
}

#[test]
fn a_gradient_that_is_not_finite_has_a_norm_that_is_not_finite() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut x = vec![1.0; 70_000];
        x[69_999] = bad;
        assert!(!global_norm(&tensor::<f32>(&Device::cpu(), &[x.len()], &x)).is_finite(), "{bad}");
    }
}

#[test]
fn the_factor_brings_a_larger_norm_down_to_the_limit_and_leaves_a_smaller_one() {
    // torch.nn.utils.clip_grad_norm_ divides by norm + 1e-6.
    assert_eq!(clip_factor(4.0, 1.0), 1.0 / (4.0 + 1e-6));
    assert_eq!(clip_factor(0.5, 1.0), 1.0);
    assert_eq!(clip_factor(1.0, 1.0), 1.0 / (1.0 + 1e-6));
    assert_eq!(clip_factor(0.0, 1.0), 1.0);
    assert_eq!(clip_factor(1e9, 0.0), 1.0, "a limit of 0 is no limit");
}
