//! In which order an epoch sees the rows, and how they are dealt into updates.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::train::options::TrainOptions;

/// What one update is computed from: micro-batches of indices of examples.
pub type Window = Vec<Vec<usize>>;

/// The windows of an epoch (counted from 0) over `examples` rows. The order follows from seed and epoch alone, so that a
/// run can go on anywhere without a generator that remembers.
pub fn windows(options: &TrainOptions, examples: usize, epoch: u64) -> Vec<Window> {
    let mut order: Vec<usize> = (0..examples).collect();
    if options.shuffle {
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        rng.set_stream(epoch);
        order.shuffle(&mut rng);
    }
    let batches: Vec<Vec<usize>> =
        order.chunks(options.per_device_train_batch_size.max(1)).map(<[usize]>::to_vec).collect();
    batches.chunks(options.gradient_accumulation_steps.max(1)).map(<[Vec<usize>]>::to_vec).collect()
}
