// rmsnorm: what a warp does with a row. Every kernel that norms a row has its numbers from here, to the bit
#pragma once

#include "reduce.cuh"
#include "vector.cuh"

namespace ENGINE_NAMESPACE {

/// 1 / sqrt(mean(x^2) + eps) of a row, by a warp.
template <class T, uint32_t W> __device__ inline float row_scale(const T *x, uint32_t d, float eps) {
    float values[W], squares = 0;
    for (uint32_t i = threadIdx.x % WARP * W; i < d; i += WARP * W) {
        load(values, x + i);
        for (uint32_t j = 0; j < W; j++) squares += values[j] * values[j];
    }
    return rsqrtf(warp_sum(squares) / d + eps);
}

/// y = x * scale * (1 + weight) of a row, by a warp.
template <class T, uint32_t W> __device__ inline void norm_row(T *y, const T *x, const T *weight, float scale, uint32_t d) {
    float values[W], factors[W];
    for (uint32_t i = threadIdx.x % WARP * W; i < d; i += WARP * W) {
        load(values, x + i);
        load(factors, weight + i);
        for (uint32_t j = 0; j < W; j++) values[j] *= scale * (1 + factors[j]);
        store(y + i, values);
    }
}

/// sum = h + x * scale * (1 + weight) of a row, by a warp; the sum of the squares of what is stored. `also` is a second place for
/// the row, or null.
template <class T, uint32_t W>
__device__ inline float add_normed_row(T *sum, T *also, const T *h, const T *x, const T *weight, float scale, uint32_t d) {
    float values[W], factors[W], residual[W];
    float squares = 0;
    for (uint32_t i = threadIdx.x % WARP * W; i < d; i += WARP * W) {
        load(values, x + i);
        load(factors, weight + i);
        load(residual, h + i);
        for (uint32_t j = 0; j < W; j++) {
            values[j] = residual[j] + values[j] * scale * (1 + factors[j]);
            float stored = to_float(from_float<T>(values[j]));
            squares += stored * stored;
        }
        store(sum + i, values);
        if (also) store(also + i, values);
    }
    return warp_sum(squares);
}

} // namespace ENGINE_NAMESPACE
