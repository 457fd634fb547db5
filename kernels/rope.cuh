// A head of q or k, its norm and its rotation. The formulas are at the head of rope.cu.
#pragma once

#include "reduce.cuh"
#include "vector.cuh"

namespace ENGINE_NAMESPACE {

/// W elements of a head's lower half, and those of the upper half that rotate with them.
template <uint32_t W> struct Pair {
    float low[W], high[W];

    template <class T> __device__ void read(const T *head, uint32_t half) {
        load(low, head);
        load(high, head + half);
    }
    template <class T> __device__ void write(T *head, uint32_t half) const {
        store(head, low);
        store(head + half, high);
    }
    __device__ void add(const Pair &other) {
        for (uint32_t j = 0; j < W; j++) low[j] += other.low[j], high[j] += other.high[j];
    }
    /// To what a T holds.
    template <class T> __device__ void round() {
        for (uint32_t j = 0; j < W; j++)
            low[j] = to_float(from_float<T>(low[j])), high[j] = to_float(from_float<T>(high[j]));
    }
    /// Rotates by the angles, or back by them when `direction` is -1.
    __device__ void rotate(const float *cos, const float *sin, float direction) {
        float c[W], s[W];
        load(c, cos);
        load(s, sin);
        for (uint32_t j = 0; j < W; j++) {
            float a = low[j], b = high[j], sine = direction * s[j];
            low[j] = a * c[j] - b * sine;
            high[j] = b * c[j] + a * sine;
        }
    }
    /// The sum of the products with the other's elements.
    __device__ float dot(const Pair &other) const {
        float sum = 0;
        for (uint32_t j = 0; j < W; j++) sum += low[j] * other.low[j] + high[j] * other.high[j];
        return sum;
    }
    /// this *= scale * (1 + norm)
    __device__ void weigh(float scale, const Pair &norm) {
        for (uint32_t j = 0; j < W; j++) low[j] *= scale * (1 + norm.low[j]), high[j] *= scale * (1 + norm.high[j]);
    }
};

/// cos and sin of the angles of a row.
struct Angles {
    const float *cos, *sin;

    __device__ Angles(const engine_rope &rope, uint32_t row) {
        size_t at = size_t(rope.positions[row]) * (rope.heads.dim / 2);
        cos = static_cast<const float *>(rope.cos) + at;
        sin = static_cast<const float *>(rope.sin) + at;
    }
};

/// Elements of a row of qkv.
__host__ __device__ inline size_t row_width(const engine_heads &heads) {
    return size_t(heads.query + 2 * heads.kv) * heads.dim;
}

/// Norms and rotates a head x (Dh), by a warp; write(pair, i) for each W elements from i on and those that rotate with them.
template <uint32_t W, class T, class Write>
__device__ inline void norm_and_rotate(const T *x, const T *weight, const Angles &angles, uint32_t dim, float eps,
                                       const Write &write) {
    uint32_t half = dim / 2, first = threadIdx.x % WARP * W;
    Pair<W> u, norm;
    float squares = 0;
    for (uint32_t i = first; i < half; i += WARP * W) {
        u.read(x + i, half);
        squares += u.dot(u);
    }
    float scale = rsqrtf(warp_sum(squares) / dim + eps);
    for (uint32_t i = first; i < half; i += WARP * W) {
        u.read(x + i, half);
        norm.read(weight + i, half);
        u.weigh(scale, norm);
        u.rotate(angles.cos + i, angles.sin + i, 1);
        write(u, i);
    }
}

} // namespace ENGINE_NAMESPACE
