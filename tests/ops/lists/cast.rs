//! cast and add: how many elements.

/// The gradient of one activation of the model: N 270, D 640.
pub fn model_case() -> usize {
    270 * 640
}

/// Around vectors of 4 and 8, blocks of threads, and the host's block of 65,536.
pub fn cases() -> [usize; 12] {
    [0, 1, 2, 5, 8, 17, 113, 203, 2048, 4099, 65_536, 65_539]
}
