// embedding: h = scale * weight[ids], a row of zeros for the id UINT32_MAX
//
// Shapes    weight (V, D) T     dweight (V, D) f32     ids (N)     h, dh (N, D) T
//           squares (U): what those of dweight grow by, or null
// Saved     ids, and the batch's rows sorted by id: `rows` (N), `starts` (U + 1)
// Backward  dweight[id] += scale * sum of dh over the rows that have this id
// Numerics  f32 inside; the sum over the rows is rounded once into dweight
// Order     a block owns an id and adds its rows in the order of the batch: no atomics, bit-equal reruns
// Cost      2 * N * D * sizeof(T) bytes: memory bound. A frequent id is summed by D / W threads alone, with eight
//           of its rows on their way at once
#include "reduce.cuh"
#include "vector.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t THREADS = 128;
constexpr uint32_t BATCH = 8; // rows of an id that are on their way at once

template <class T, uint32_t W>
__global__ void __launch_bounds__(THREADS)
    embedding_forward_kernel(T *h, const T *weight, const uint32_t *ids, uint32_t n, uint32_t d, uint32_t rows, float scale) {
    wait_for_earlier_kernels();
    uint32_t lanes = THREADS / rows, row = blockIdx.x * rows + threadIdx.x / lanes;
    if (threadIdx.x / lanes >= rows || row >= n) return;
    uint32_t id = ids[row];
    const T *source = weight + size_t(id) * d;
    float values[W];
    for (uint32_t i = threadIdx.x % lanes * W; i < d; i += lanes * W) {
        for (uint32_t j = 0; j < W; j++) values[j] = 0;
        if (id != UINT32_MAX) load(values, source + i);
        for (uint32_t j = 0; j < W; j++) values[j] *= scale;
        store(h + size_t(row) * d + i, values);
    }
}

template <class T, uint32_t W>
__global__ void __launch_bounds__(THREADS)
    embedding_backward_kernel(float *dweight, float *squares, const T *dh, const uint32_t *ids, const uint32_t *rows,
                              const uint32_t *starts, uint32_t d, float scale) {
    wait_for_earlier_kernels();
    uint32_t first = starts[blockIdx.x], end = starts[blockIdx.x + 1];
    if (first == end) {
        if (squares && threadIdx.x == 0) squares[blockIdx.x] = 0;
        return;
    }
    float growth = 0;
    float *target = dweight + size_t(ids[rows[first]]) * d;
    float slopes[W], sums[W];
    Packed<T, W> batch[BATCH];
    for (uint32_t i = threadIdx.x * W; i < d; i += THREADS * W) {
        for (uint32_t j = 0; j < W; j++) sums[j] = 0;
        for (uint32_t k = first; k < end; k += BATCH) {
#pragma unroll
            for (uint32_t b = 0; b < BATCH; b++)
                if (k + b < end) batch[b].load(dh + size_t(rows[k + b]) * d + i);
#pragma unroll
            for (uint32_t b = 0; b < BATCH; b++) {
                if (k + b >= end) break;
                batch[b].unpack(slopes);
                for (uint32_t j = 0; j < W; j++) sums[j] += slopes[j];
            }
        }
        for (uint32_t j = 0; j < W; j++) {
            float before = target[i + j], after = before + sums[j] * scale;
            target[i + j] = after;
            growth += (after - before) * (after + before);
        }
    }
    growth = block_sum<THREADS>(growth);
    if (squares && threadIdx.x == 0) squares[blockIdx.x] = growth;
}

} // namespace

engine_status embedding_forward(void *h, const void *weight, const uint32_t *ids, uint32_t n, uint32_t d, double scale,
                                engine_dtype dtype, engine_stream stream) {
    if (n == 0 || d == 0) return ENGINE_OK;
    return with_access(dtype, d, {h, weight}, [&](auto access) {
        using T = typename decltype(access)::Type;
        constexpr uint32_t W = decltype(access)::WIDTH;
        // Short rows, such as a LoRA's, share a block.
        uint32_t vectors = ceil_div(d, W), rows = vectors < THREADS ? THREADS / vectors : 1;
        return LAUNCH((embedding_forward_kernel<T, W>), ceil_div(n, rows), THREADS, 0, stream, static_cast<T *>(h),
                      static_cast<const T *>(weight), ids, n, d, rows, static_cast<float>(scale));
    });
}

engine_status embedding_backward(void *dweight, void *squares, const void *dh, const uint32_t *ids, const uint32_t *rows,
                                 const uint32_t *starts, uint32_t u, uint32_t d, double scale, engine_dtype dtype,
                                 engine_stream stream) {
    if (u == 0 || d == 0) return ENGINE_OK;
    return with_access(dtype, d, {dh}, [&](auto access) {
        using T = typename decltype(access)::Type;
        constexpr uint32_t W = decltype(access)::WIDTH;
        return LAUNCH((embedding_backward_kernel<T, W>), u, THREADS, 0, stream, static_cast<float *>(dweight),
                      static_cast<float *>(squares), static_cast<const T *>(dh), ids, rows, starts, d, static_cast<float>(scale));
    });
}

} // namespace ENGINE_NAMESPACE
