//! clip: how many gradients.

/// Three layers of the model, as in adamw's list.
pub fn model_case() -> usize {
    super::adamw::model_case().len()
}

/// Around the host's chunks of 1,024, the runs of 16,384, and what a power of two hides.
pub fn cases() -> [usize; 12] {
    [1, 2, 5, 17, 113, 1023, 1025, 16_384, 16_385, 65_535, 65_537, 200_003]
}
