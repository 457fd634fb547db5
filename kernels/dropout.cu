// dropout: y = x / (1 - p) where an element is kept, else 0
//
// Shapes    y, x (n) T     key (2)
// Backward  the same of dy, with the same key and product
// Numerics  multiplied by 1 / (1 - p) in f32, one rounding at the store
// Order     elementwise: what is kept follows from key, product and index, which are hashed
// Cost      2 * n * sizeof(T) bytes: memory bound. The last elements of an odd n go one by one
#include "vector.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t THREADS = 256;

/// A bijection of 32 bits, each of which changes about half of the others.
__device__ inline uint32_t mix(uint32_t h) {
    h ^= h >> 16, h *= 0x7feb352du;
    h ^= h >> 15, h *= 0x846ca68bu;
    return h ^ h >> 16;
}

/// Which elements are kept.
struct Mask {
    uint32_t first, second, threshold;

    __device__ Mask(const uint32_t *key, uint32_t product, uint32_t threshold)
        : first(mix(key[0] + product * 0x9e3779b9u)), second(mix(key[1] ^ first)), threshold(threshold) {}

    __device__ bool keeps(uint64_t i) const {
        uint32_t low = static_cast<uint32_t>(i), high = static_cast<uint32_t>(i >> 32);
        return mix(mix(low ^ first) + high * 0x9e3779b9u + second) >= threshold;
    }
};

template <class T, uint32_t W>
__global__ void __launch_bounds__(THREADS)
    dropout_kernel(T *y, const T *x, const uint32_t *key, uint64_t n, uint32_t product, uint32_t threshold, float scale) {
    wait_for_earlier_kernels();
    uint64_t i = (uint64_t(blockIdx.x) * THREADS + threadIdx.x) * W;
    if (i >= n) return;
    Mask mask(key, product, threshold);
    if (i + W <= n) {
        float values[W];
        load(values, x + i);
        for (uint32_t j = 0; j < W; j++) values[j] = mask.keeps(i + j) ? values[j] * scale : 0;
        store(y + i, values);
        return;
    }
    for (; i < n; i++) y[i] = from_float<T>(mask.keeps(i) ? to_float(x[i]) * scale : 0);
}

} // namespace

engine_status dropout(void *y, const void *x, const uint32_t *key, uint64_t n, uint32_t product, double p, engine_dtype dtype,
                      engine_stream stream) {
    if (n == 0) return ENGINE_OK;
    // A row of 8 elements fills whole vectors: what is left after the last row the kernel does one by one.
    return with_access(dtype, 8, {y, x}, [&](auto access) {
        using T = typename decltype(access)::Type;
        constexpr uint32_t W = decltype(access)::WIDTH;
        return LAUNCH((dropout_kernel<T, W>), ceil_div(n, THREADS * W), THREADS, 0, stream, static_cast<T *>(y),
                      static_cast<const T *>(x), key, n, product, static_cast<uint32_t>(p * 0x1p32),
                      static_cast<float>(1 / (1 - p)));
    });
}

} // namespace ENGINE_NAMESPACE
