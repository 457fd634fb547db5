//! dropout: which elements are kept, written as kernels/engine.h and kernels/dropout.cu say it.

/// Whether dropout keeps element i.
pub fn keeps(key: [u32; 2], product: u32, i: u64, p: f64) -> bool {
    let first = mix(key[0].wrapping_add(product.wrapping_mul(0x9e37_79b9)));
    let second = mix(key[1] ^ first);
    let high = ((i >> 32) as u32).wrapping_mul(0x9e37_79b9);
    let bits = mix(mix(i as u32 ^ first).wrapping_add(high).wrapping_add(second));
    f64::from(bits) >= (p * 2f64.powi(32)).floor()
}

fn mix(mut h: u32) -> u32 {
    for (shift, factor) in [(16, 0x7feb_352d), (15, 0x846c_a68b)] {
        h = (h ^ h >> shift).wrapping_mul(factor);
    }
    h ^ h >> 16
}

/// The input of the model's widest product: N 270, F 2048.
pub fn model_case() -> usize {
    270 * 2048
}
