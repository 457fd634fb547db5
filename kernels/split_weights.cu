// split_weights, join_weights: master weights to and from a copy in bf16 and the lower halves of their bits
//
// Shapes    weights (n) f32     copy (n) bf16     lower (n) u16
// Numerics  to the bit; the copy is rounded to nearest or stochastically
// Order     elementwise
// Cost      8 bytes per weight: memory bound. The last elements of an odd n go one by one
#include "halves.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t THREADS = 256;

template <uint32_t W>
__device__ void split_some(bf16 *copy, uint16_t *lower, const float *from, uint64_t i, uint32_t step) {
    float values[W];
    load(values, from + i);
    Halves<W> halves;
    for (uint32_t j = 0; j < W; j++) halves.split(values[j], j, i + j, step);
    halves.store(copy + i, lower + i);
}

template <uint32_t W>
__global__ void __launch_bounds__(THREADS)
    split_kernel(bf16 *copy, uint16_t *lower, const float *from, uint64_t n, uint32_t step) {
    wait_for_earlier_kernels();
    uint64_t i = (uint64_t(blockIdx.x) * THREADS + threadIdx.x) * W;
    if (i + W <= n) return split_some<W>(copy, lower, from, i, step);
    for (; i < n; i++) split_some<1>(copy, lower, from, i, step);
}

template <uint32_t W>
__device__ void join_some(float *to, const bf16 *copy, const uint16_t *lower, uint64_t i, uint32_t step) {
    Halves<W> halves(copy + i, lower + i);
    float values[W];
    for (uint32_t j = 0; j < W; j++) values[j] = halves.join(j, i + j, step);
    store(to + i, values);
}

template <uint32_t W>
__global__ void __launch_bounds__(THREADS)
    join_kernel(float *to, const bf16 *copy, const uint16_t *lower, uint64_t n, uint32_t step) {
    wait_for_earlier_kernels();
    uint64_t i = (uint64_t(blockIdx.x) * THREADS + threadIdx.x) * W;
    if (i + W <= n) return join_some<W>(to, copy, lower, i, step);
    for (; i < n; i++) join_some<1>(to, copy, lower, i, step);
}

} // namespace

// A row of 8 elements fills whole vectors: what is left after the last row the kernels do one by one.

engine_status split_weights(void *copy, void *lower, const void *from, uint64_t n, uint64_t step, engine_stream stream) {
    if (n == 0) return ENGINE_OK;
    return with_f32_access(8, {copy, lower, from}, [&](auto access) {
        constexpr uint32_t W = decltype(access)::WIDTH;
        return LAUNCH((split_kernel<W>), ceil_div(n, THREADS * W), THREADS, 0, stream, static_cast<bf16 *>(copy),
                      static_cast<uint16_t *>(lower), static_cast<const float *>(from), n, static_cast<uint32_t>(step));
    });
}

engine_status join_weights(void *to, const void *copy, const void *lower, uint64_t n, uint64_t step, engine_stream stream) {
    if (n == 0) return ENGINE_OK;
    return with_f32_access(8, {to, copy, lower}, [&](auto access) {
        constexpr uint32_t W = decltype(access)::WIDTH;
        return LAUNCH((join_kernel<W>), ceil_div(n, THREADS * W), THREADS, 0, stream, static_cast<float *>(to),
                      static_cast<const bf16 *>(copy), static_cast<const uint16_t *>(lower), n, static_cast<uint32_t>(step));
    });
}

} // namespace ENGINE_NAMESPACE
