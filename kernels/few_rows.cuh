// few_rows: products x weight^T of a few rows, as in decoding
//
// Shapes    x (N, I) bf16     weight (O, I) bf16
// Numerics  products of bf16 are exact in f32, sums in f32
// Order     a block owns 8 rows of a weight. Its warps take pieces of 32 terms in turn, and their sums are added in the order of the
//           warps: no atomics, bit-equal reruns
// Cost      reads the weight once, from memory to registers: memory bound. A block reads all of x, which the L2 cache has
//
// The terms of a sum may come in any order that both matrices share: a lane takes 8 neighbours by one access, the first four for one
// product of the tensor cores and the others for the next.
#pragma once

#include "tensor_core.cuh"

namespace ENGINE_NAMESPACE {
namespace few_rows {

constexpr uint32_t WARPS = 8, THREADS = WARPS * WARP;
constexpr uint32_t BLOCKS = 2; // of a multiprocessor: loads on their way are worth more registers than more blocks
constexpr uint32_t OUTPUTS = 8; // rows of a weight that a block multiplies by
constexpr uint32_t TILE = 16; // rows of x in a product of the tensor cores
constexpr uint32_t PIECE = 32; // terms that a warp takes at a time

using Words = Vector<uint32_t, 4>;

/// Eight elements as they lie, or zeros.
__device__ inline Words words(const bf16 *from, bool exist) {
    if (!exist) return {};
#ifndef __CUDACC__
    emulator::check_alignment(from, sizeof(Words));
#endif
    return *reinterpret_cast<const Words *>(from);
}

/// sums[w] += x weights[w]^T of the OUTPUTS rows from weights[w] on, over the pieces of this warp.
template <uint32_t WEIGHTS, uint32_t TILES>
__device__ inline void multiply(float (&sums)[WEIGHTS][TILES][4], const bf16 *x, const bf16 *const (&weights)[WEIGHTS],
                                uint32_t n, uint32_t i) {
    uint32_t lane = threadIdx.x % WARP, first = lane / 4;
    constexpr uint32_t AT_ONCE = TILES < 4 ? 2 : 1; // pieces, as registers allow
#pragma unroll AT_ONCE
    for (uint32_t piece = threadIdx.x / WARP * PIECE; piece < i; piece += WARPS * PIECE) {
        uint32_t column = piece + lane % 4 * 8;
        Words right[WEIGHTS], left[TILES][2];
#pragma unroll
        for (uint32_t w = 0; w < WEIGHTS; w++) right[w] = words(weights[w] + size_t(first) * i + column, column < i);
#pragma unroll
        for (uint32_t m = 0; m < TILES; m++)
#pragma unroll
            for (uint32_t half = 0; half < 2; half++) {
                uint32_t row = TILE * m + 8 * half + first;
                left[m][half] = words(x + size_t(row) * i + column, column < i && row < n);
            }
#pragma unroll
        for (uint32_t part = 0; part < 4; part += 2)
#pragma unroll
            for (uint32_t m = 0; m < TILES; m++) {
                const Words &low = left[m][0], &high = left[m][1];
                const uint32_t a[4] = {low.at[part], high.at[part], low.at[part + 1], high.at[part + 1]};
#pragma unroll
                for (uint32_t w = 0; w < WEIGHTS; w++) {
                    const uint32_t b[2] = {right[w].at[part], right[w].at[part + 1]};
                    mma_bf16(sums[w][m], a, b);
                }
            }
    }
}

/// finish(row, output, sums) for each row of x and each output of the block, with its products by the weights.
template <uint32_t WEIGHTS, uint32_t TILES, class Finish>
__device__ inline void products(const bf16 *x, const bf16 *const (&weights)[WEIGHTS], uint32_t n, uint32_t i,
                                const Finish &finish) {
    constexpr uint32_t OF_WARP = TILE * TILES * OUTPUTS, OF_WEIGHT = WARPS * OF_WARP;
    SHARED(float, partial, WEIGHTS * OF_WEIGHT);
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float sums[WEIGHTS][TILES][4] = {};
    multiply(sums, x, weights, n, i);
#pragma unroll
    for (uint32_t w = 0; w < WEIGHTS; w++)
#pragma unroll
        for (uint32_t m = 0; m < TILES; m++)
#pragma unroll
            for (uint32_t half = 0; half < 2; half++) {
                uint32_t row = TILE * m + 8 * half + lane / 4, output = lane % 4 * 2;
                float *to = partial + w * OF_WEIGHT + warp * OF_WARP + row * OUTPUTS + output;
                to[0] = sums[w][m][2 * half], to[1] = sums[w][m][2 * half + 1];
            }
    __syncthreads();
    for (uint32_t at = threadIdx.x; at < n * OUTPUTS; at += THREADS) {
        float totals[WEIGHTS] = {};
#pragma unroll
        for (uint32_t w = 0; w < WEIGHTS; w++)
#pragma unroll
            for (uint32_t other = 0; other < WARPS; other++) totals[w] += partial[w * OF_WEIGHT + other * OF_WARP + at];
        finish(at / OUTPUTS, at % OUTPUTS, totals);
    }
}

/// Tiles that hold some rows.
template <uint32_t T> struct Tiles {
    static constexpr uint32_t COUNT = T;
};

/// Calls `launch(Tiles<T>())` with a T whose tiles hold n rows.
template <class Launch> engine_status with_tiles(uint32_t n, const Launch &launch) {
    static_assert(ENGINE_FEW_ROWS == 4 * TILE);
    if (n > ENGINE_FEW_ROWS) return fail(ENGINE_BAD_ARGUMENT, "%u rows, at most %u", n, ENGINE_FEW_ROWS);
    if (n <= TILE) return launch(Tiles<1>());
    return n <= 2 * TILE ? launch(Tiles<2>()) : launch(Tiles<4>());
}

} // namespace few_rows

/// Whether these widths and addresses are those of rows of whole accesses of 16 bytes.
inline bool lie_evenly(std::initializer_list<uint32_t> widths, std::initializer_list<const void *> addresses) {
    for (uint32_t width : widths)
        if (width % 8 != 0) return false;
    for (const void *address : addresses)
        if (reinterpret_cast<uintptr_t>(address) % 16 != 0) return false;
    return true;
}

} // namespace ENGINE_NAMESPACE
