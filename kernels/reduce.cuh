// Sums over a warp and over a block, in an order that depends on nothing but the shape of the block.
#pragma once

#include "platform.cuh"

namespace ENGINE_NAMESPACE {

/// The value of the lane whose number differs in these bits: some words, that the emulator hands over at one meeting.
template <class T> __device__ inline T shuffle_xor(const T &value, uint32_t bits) {
#ifdef __CUDACC__
    static_assert(sizeof(T) % sizeof(uint32_t) == 0);
    uint32_t words[sizeof(T) / sizeof(uint32_t)];
    memcpy(words, &value, sizeof(T));
#pragma unroll
    for (uint32_t &word : words) word = __shfl_xor_sync(~0u, word, bits);
    T other;
    memcpy(&other, words, sizeof(T));
    return other;
#else
    return __shfl_xor_sync(~0u, value, bits);
#endif
}

/// combine(own, other's) over the 32 lanes, the same in every lane. `combine` must not care which comes first.
template <class T, class Combine> __device__ inline T warp_reduce(T value, const Combine &combine) {
#pragma unroll
    for (uint32_t distance = WARP / 2; distance > 0; distance /= 2)
        value = combine(value, shuffle_xor(value, distance));
    return value;
}

template <class T> __device__ inline T warp_sum(T value) {
    return warp_reduce(value, [](T a, T b) { return a + b; });
}

/// warp_sum over a block of THREADS threads, the same in every thread.
template <uint32_t THREADS, class T> __device__ inline T block_sum(T value) {
    static_assert(THREADS % WARP == 0);
    SHARED(T, partial, THREADS / WARP);
    value = warp_sum(value);
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = value;
    __syncthreads();
    T sum = partial[threadIdx.x % (THREADS / WARP)];
    if constexpr (THREADS / WARP == WARP) {
        sum = warp_sum(sum);
    } else {
        sum = partial[0];
#pragma unroll
        for (uint32_t warp = 1; warp < THREADS / WARP; warp++) sum += partial[warp];
    }
    __syncthreads(); // the next sum writes `partial` again
    return sum;
}

} // namespace ENGINE_NAMESPACE
