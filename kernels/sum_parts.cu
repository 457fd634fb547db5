// sum_parts: gradients of vectors = or += the sums of their parts, all vectors of a backward at once
//
// Shapes    gradients A, flat     parts: (C, len) f32 of each vector, one vector after the other     starts (G + 1), offsets (G)
// Order     eight threads add every eighth part of a column, in order, and then their sums are added, in order
// Cost      C * columns * 4 bytes: memory bound
#include "platform.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t SLICES = 8; // threads of a column
constexpr uint32_t COLUMNS = 32; // of a block

/// The vector that holds a column.
__device__ inline uint32_t vector_of(const uint32_t *starts, uint32_t vectors, uint32_t column) {
    uint32_t low = 0, high = vectors;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        (starts[middle] <= column ? low : high) = middle;
    }
    return low;
}

__global__ void __launch_bounds__(SLICES *COLUMNS)
    sum_parts_kernel(float *gradients, const float *parts, const uint32_t *starts, const uint64_t *offsets, uint32_t vectors,
                     uint32_t columns, uint32_t count, bool accumulate) {
    SHARED(float, sums, SLICES * COLUMNS);
    uint32_t slice = threadIdx.x / COLUMNS, column = blockIdx.x * COLUMNS + threadIdx.x % COLUMNS;
    bool exists = column < columns;
    uint32_t vector = exists ? vector_of(starts, vectors, column) : 0;
    uint32_t first = exists ? starts[vector] : 0, length = exists ? starts[vector + 1] - first : 0;
    float sum = 0;
    if (exists) {
        const float *from = parts + size_t(count) * first + (column - first);
#pragma unroll 4
        for (uint32_t part = slice; part < count; part += SLICES) sum += from[size_t(part) * length];
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (slice > 0 || !exists) return;
    for (uint32_t other = 1; other < SLICES; other++) sum += sums[other * COLUMNS + threadIdx.x];
    float *to = gradients + offsets[vector] + (column - first);
    *to = accumulate ? *to + sum : sum;
}

} // namespace

engine_status sum_parts(void *gradients, const void *parts, const uint32_t *starts, const uint64_t *offsets, uint32_t vectors,
                        uint32_t columns, uint32_t count, uint32_t accumulate, engine_dtype dtype, engine_stream stream) {
    if (columns == 0) return ENGINE_OK;
    if (dtype != ENGINE_F32) return fail(ENGINE_BAD_ARGUMENT, "no kernel computes in dtype %d", static_cast<int>(dtype));
    return LAUNCH(sum_parts_kernel, ceil_div(columns, COLUMNS), SLICES * COLUMNS, 0, stream, static_cast<float *>(gradients),
                  static_cast<const float *>(parts), starts, offsets, vectors, columns, count, accumulate != 0);
}

} // namespace ENGINE_NAMESPACE
