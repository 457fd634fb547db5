// cross_entropy: loss of a chunk of logits, turned in place into their gradient
//
//     lse = log sum_V exp z;  loss = sum_t w_t (lse - z[id_t]);  entropy = lse - sum_V p z,  p = exp(z - lse)
//
// Shapes    logits (R, V) T     starts (R + 1), ids (M), weights (M) f32: the targets, by row     sums (4) f64
//           target_logits (M), row_sums (R, 4) f32: scratch
// Backward  dz = scale * (w_row p - sum_t w_t onehot(id_t)),  w_row = sum of the row's w
// Numerics  f32 inside, one rounding at the store; rows are added up in f64
// Order     one online pass per thread, folded in the order of the threads; rows in order
// Cost      2 reads and 1 write of R * V * sizeof(T) bytes: memory bound. A block per row
#include "reduce.cuh"
#include "vector.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t THREADS = 512;

/// What one pass over a row's logits knows: with m the largest so far, the sums of e = exp(z - m) and of (z - m) * e.
struct Online {
    float max, sum, moment;
    uint32_t argmax; // the first of equals
};

/// Both parts' knowledge. A part that has seen nothing but -inf weighs nothing.
__device__ inline Online combine(Online a, Online b) {
    bool second = b.max > a.max || (b.max == a.max && b.argmax < a.argmax);
    Online out = second ? b : a;
    const Online &other = second ? a : b;
    if (other.max == -INFINITY) return out;
    float shift = other.max - out.max, weight = expf(shift);
    out.sum += other.sum * weight;
    if (weight > 0) out.moment += (other.moment + other.sum * shift) * weight;
    return out;
}

__device__ inline Online exchange(Online own, uint32_t distance) {
    return {__shfl_xor_sync(~0u, own.max, distance), __shfl_xor_sync(~0u, own.sum, distance),
            __shfl_xor_sync(~0u, own.moment, distance), __shfl_xor_sync(~0u, own.argmax, distance)};
}

/// The whole row's knowledge, in every thread of the block.
__device__ inline Online combine_block(Online own) {
    SHARED(Online, partial, THREADS / WARP);
    for (uint32_t distance = WARP / 2; distance > 0; distance /= 2) {
        Online other = exchange(own, distance);
        own = threadIdx.x & distance ? combine(other, own) : combine(own, other);
    }
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = own;
    __syncthreads();
    Online all = partial[0];
    for (uint32_t warp = 1; warp < THREADS / WARP; warp++) all = combine(all, partial[warp]);
    return all;
}

template <class T, uint32_t W> __device__ inline Online scan(const T *z, uint32_t v) {
    Online own{-INFINITY, 0, 0, UINT32_MAX};
    float values[W];
    for (uint32_t i = threadIdx.x * W; i < v; i += THREADS * W) {
        load(values, z + i);
#pragma unroll
        for (uint32_t j = 0; j < W; j++) own = combine(own, Online{values[j], 1, 0, i + j});
    }
    return own;
}

template <class T, uint32_t W>
__global__ void __launch_bounds__(THREADS)
    cross_entropy_kernel(T *logits, float *target_logits, float *row_sums, const uint32_t *starts, const uint32_t *ids,
                         const float *weights, const float *scale, uint32_t v) {
    T *z = logits + size_t(blockIdx.x) * v;
    uint32_t first = starts[blockIdx.x], end = starts[blockIdx.x + 1];
    for (uint32_t t = first + threadIdx.x; t < end; t += THREADS) target_logits[t] = to_float(z[ids[t]]);
    Online row = combine_block(scan<T, W>(z, v));
    float log_sum = logf(row.sum);
    float loss = 0, weight = 0, correct = 0;
    for (uint32_t t = first + threadIdx.x; t < end; t += THREADS) {
        loss += weights[t] * (log_sum - (target_logits[t] - row.max));
        correct += ids[t] == row.argmax ? weights[t] : 0;
        weight += weights[t];
    }
    loss = block_sum<THREADS>(loss);
    correct = block_sum<THREADS>(correct);
    weight = block_sum<THREADS>(weight);
    if (threadIdx.x == 0) {
        float *out = row_sums + size_t(blockIdx.x) * 4;
        out[0] = loss, out[1] = weight * (log_sum - row.moment / row.sum), out[2] = correct, out[3] = weight;
    }
    if (!scale) return;
    // exp(z - max) / sum, not exp(z - lse): the rounding of lse would come back as a relative error of every gradient.
    float factor = weight * *scale / row.sum;
    float values[W];
    for (uint32_t i = threadIdx.x * W; i < v; i += THREADS * W) {
        load(values, z + i);
#pragma unroll
        for (uint32_t j = 0; j < W; j++) values[j] = expf(values[j] - row.max) * factor;
        store(z + i, values);
    }
    __syncthreads(); // a target's gradient replaces what another thread wrote
    for (uint32_t t = first + threadIdx.x; t < end; t += THREADS)
        z[ids[t]] = from_float<T>(expf(target_logits[t] - row.max) * factor - weights[t] * *scale);
}

/// sums (4) += row_sums (R, 4) over the rows, in order, a thread per sum.
__global__ void __launch_bounds__(WARP) cross_entropy_sums_kernel(double *sums, const float *row_sums, uint32_t r) {
    if (threadIdx.x >= 4) return;
    double sum = 0;
    for (uint32_t row = 0; row < r; row++) sum += row_sums[size_t(row) * 4 + threadIdx.x];
    sums[threadIdx.x] += sum;
}

} // namespace

engine_status cross_entropy(void *logits, double *sums, float *target_logits, float *row_sums, const uint32_t *starts,
                            const uint32_t *ids, const float *weights, const float *scale, uint32_t r, uint32_t v,
                            engine_dtype dtype, engine_stream stream) {
    if (r == 0 || v == 0) return ENGINE_OK;
    engine_status status = with_access(dtype, v, {logits}, [&](auto access) {
        using T = typename decltype(access)::Type;
        constexpr uint32_t W = decltype(access)::WIDTH;
        return LAUNCH((cross_entropy_kernel<T, W>), r, THREADS, 0, stream, static_cast<T *>(logits), target_logits,
                      row_sums, starts, ids, weights, scale, v);
    });
    if (status != ENGINE_OK) return status;
    return LAUNCH(cross_entropy_sums_kernel, 1, WARP, 0, stream, sums, row_sums, r);
}

} // namespace ENGINE_NAMESPACE
