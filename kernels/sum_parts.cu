// sum_parts: gradients of vectors = or += the sums of their parts, all vectors of a backward at once
//
// Shapes    gradients A, flat     parts: (C, len) f32 of each vector, one vector after the other     starts (G + 1), offsets (G)
//           squares: one f32 for each 32 columns, or null
// Order     eight threads add every eighth part of a column, in order, and then their sums are added, in order
// Cost      C * columns * 4 bytes: memory bound
#include "reduce.cuh"
#include "vector.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t SLICES = 8; // threads of a column
constexpr uint32_t COLUMNS = ENGINE_SUM_PARTS_COLUMNS; // of a block: a warp of each slice
static_assert(COLUMNS == WARP);

__global__ void __launch_bounds__(SLICES *COLUMNS)
    sum_parts_kernel(float *gradients, float *squares, const float *parts, const uint32_t *starts, const uint64_t *offsets,
                     uint32_t vectors, uint32_t columns, uint32_t count, bool accumulate) {
    wait_for_earlier_kernels();
    SHARED(float, sums, SLICES * COLUMNS);
    uint32_t slice = threadIdx.x / COLUMNS, column = blockIdx.x * COLUMNS + threadIdx.x % COLUMNS;
    bool exists = column < columns;
    uint32_t vector = exists ? interval_of(starts, vectors, column) : 0;
    uint32_t first = exists ? starts[vector] : 0, length = exists ? starts[vector + 1] - first : 0;
    float sum = 0;
    if (exists) {
        const float *from = parts + size_t(count) * first + (column - first);
#pragma unroll 4
        for (uint32_t part = slice; part < count; part += SLICES) sum += from[size_t(part) * length];
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (slice > 0) return;
    for (uint32_t other = 1; other < SLICES; other++) sum += sums[other * COLUMNS + threadIdx.x];
    if (exists) {
        float *to = gradients + offsets[vector] + (column - first);
        if (accumulate) sum += *to;
        *to = sum;
    }
    float square = warp_sum(exists ? sum * sum : 0);
    if (squares && threadIdx.x == 0) squares[blockIdx.x] = square;
}

} // namespace

engine_status sum_parts(void *gradients, void *squares, const void *parts, const uint32_t *starts, const uint64_t *offsets,
                        uint32_t vectors, uint32_t columns, uint32_t count, uint32_t accumulate, engine_dtype dtype,
                        engine_stream stream) {
    if (columns == 0) return ENGINE_OK;
    if (engine_status status = only_f32(dtype); status != ENGINE_OK) return status;
    return LAUNCH(sum_parts_kernel, ceil_div(columns, COLUMNS), SLICES * COLUMNS, 0, stream, static_cast<float *>(gradients),
                  static_cast<float *>(squares), static_cast<const float *>(parts), starts, offsets, vectors, columns, count,
                  accumulate != 0);
}

} // namespace ENGINE_NAMESPACE
