// few_rows: products x weight^T of a few rows, as in decoding
//
// Shapes    x (N, I) bf16     weight (O, I) bf16
// Numerics  products of bf16 are exact in f32, sums in f32
// Norms     rows that a pair of norms gives are normed by every block for itself, into shared memory, while its weights are on their way
//           from memory to the L2 cache: a launch less, and what it would hand on. Block b writes every sum whose number is b in as many
//           as there are blocks
// Order     a block owns 8 rows of a weight. Its warps take pieces of 32 terms in turn, and their sums are added in the order of the
//           warps: no atomics, bit-equal reruns
// Cost      reads the weight once, from memory to registers: memory bound. A block reads all of x, which the L2 cache has
//
// The terms of a sum may come in any order that both matrices share: a lane takes 8 neighbours by one access, the first four for one
// product of the tensor cores and the others for the next.
#pragma once

#include "rmsnorm.cuh"
#include "tensor_core.cuh"

namespace ENGINE_NAMESPACE {

/// Whether these widths and addresses are those of rows of whole accesses of 16 bytes.
inline bool lie_evenly(std::initializer_list<uint32_t> widths, std::initializer_list<const void *> addresses) {
    for (uint32_t width : widths)
        if (width % 8 != 0) return false;
    for (const void *address : addresses)
        if (reinterpret_cast<uintptr_t>(address) % 16 != 0) return false;
    return true;
}

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

/// Rows of x as they lie, I apart.
struct Ready {
    const bf16 *x;

    __device__ const bf16 *begin(uint32_t, uint32_t) const { return x; }
    __device__ static uint32_t pitch(uint32_t i) { return i; }
    __device__ static void end() {}
};

/// Elements of a row of normed ones: those that a warp reads at once lie in different banks.
__host__ __device__ constexpr uint32_t normed_pitch(uint32_t i) { return i + 8; }

/// Bytes of shared memory for that many normed rows, and then for the sums of the warps.
template <uint32_t WEIGHTS, uint32_t TILES> __host__ __device__ constexpr size_t normed_bytes(uint32_t n, uint32_t i) {
    size_t rows = n * size_t(normed_pitch(i)) * sizeof(bf16);
    constexpr size_t PARTIAL = WEIGHTS * WARPS * TILE * TILES * OUTPUTS * sizeof(float);
    return rows > PARTIAL ? rows : PARTIAL;
}

/// Rows that the norms give for x, in shared memory.
struct Normed {
    const bf16 *x;
    engine_norm_pair norms;
    bf16 *shared;

    __device__ const bf16 *begin(uint32_t n, uint32_t i) const {
        constexpr uint32_t W = 8;
        const bf16 *h = static_cast<const bf16 *>(norms.h), *weight = static_cast<const bf16 *>(norms.weight);
        const bf16 *next_weight = static_cast<const bf16 *>(norms.next_weight);
        float eps = static_cast<float>(norms.eps);
        for (uint32_t row = threadIdx.x / WARP; row < n; row += WARPS) {
            size_t at = size_t(row) * i;
            bf16 *normed = shared + row * pitch(i);
            bf16 *sum = row % gridDim.x == blockIdx.x ? static_cast<bf16 *>(norms.sum) + at : nullptr;
            float scale = row_scale<bf16, W>(x + at, i, eps);
            float squares = add_normed_row<bf16, W>(normed, sum, h + at, x + at, weight, scale, i);
            norm_row<bf16, W>(normed, normed, next_weight, rsqrtf(squares / i + eps), i); // a lane reads what it has stored
        }
        __syncthreads();
        return shared;
    }
    __device__ static uint32_t pitch(uint32_t i) { return normed_pitch(i); }
    __device__ static void end() { __syncthreads(); } // the sums lie where the rows were
};

/// Asks for the block's rows of a weight: they come while earlier kernels end, and while it norms.
__device__ inline void ask_for(const bf16 *weight, uint32_t i) {
    constexpr uint32_t LINE = 64; // elements
    for (uint32_t at = threadIdx.x * LINE; at < OUTPUTS * i; at += THREADS * LINE) prefetch_l2(weight + at);
}

/// sums[w] += x weights[w]^T of the OUTPUTS rows from weights[w] on, over the pieces of this warp. Rows of x lie `pitch` apart.
template <uint32_t WEIGHTS, uint32_t TILES>
__device__ inline void multiply(float (&sums)[WEIGHTS][TILES][4], const bf16 *x, uint32_t pitch,
                                const bf16 *const (&weights)[WEIGHTS], uint32_t n, uint32_t i) {
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
                left[m][half] = words(x + size_t(row) * pitch + column, column < i && row < n);
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

/// finish(row, output, sums) for each row and each output of the block, with its products by the weights. `partial` has room for the sums
/// of all warps.
template <uint32_t WEIGHTS, uint32_t TILES, class Rows, class Finish>
__device__ inline void products_in(float *partial, const Rows &rows, const bf16 *const (&weights)[WEIGHTS], uint32_t n,
                                   uint32_t i, const Finish &finish) {
    constexpr uint32_t OF_WARP = TILE * TILES * OUTPUTS, OF_WEIGHT = WARPS * OF_WARP;
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float sums[WEIGHTS][TILES][4] = {};
    multiply(sums, rows.begin(n, i), Rows::pitch(i), weights, n, i);
    Rows::end();
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

/// The products of rows of x.
template <uint32_t WEIGHTS, uint32_t TILES, class Finish>
__device__ inline void products(const bf16 *x, const bf16 *const (&weights)[WEIGHTS], uint32_t n, uint32_t i,
                                const Finish &finish) {
    SHARED(float, partial, WEIGHTS * WARPS * TILE * TILES * OUTPUTS);
    if (BEGINS_EARLY)
#pragma unroll
        for (uint32_t w = 0; w < WEIGHTS; w++) ask_for(weights[w], i);
    wait_for_earlier_kernels();
    products_in<WEIGHTS, TILES>(partial, Ready{x}, weights, n, i, finish);
}

/// The products of rows that the norms give for x.
template <uint32_t WEIGHTS, uint32_t TILES, class Finish>
__device__ inline void normed_products(const bf16 *x, const engine_norm_pair &norms, const bf16 *const (&weights)[WEIGHTS],
                                       uint32_t n, uint32_t i, const Finish &finish) {
    DYNAMIC_SHARED(bf16, shared, (normed_bytes<WEIGHTS, TILES>(TILE * TILES, ENGINE_NORMED_WIDTH)));
#pragma unroll
    for (uint32_t w = 0; w < WEIGHTS; w++) ask_for(weights[w], i);
    wait_for_earlier_kernels();
    Normed rows{x, norms, shared};
    products_in<WEIGHTS, TILES>(reinterpret_cast<float *>(shared), rows, weights, n, i, finish);
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

/// The same for n rows of i that are normed.
template <class Launch>
engine_status with_normed_tiles(const engine_norm_pair &norms, uint32_t n, uint32_t i, const Launch &launch) {
    static_assert(ENGINE_NORMED_ROWS == 2 * TILE);
    if (!lie_evenly({}, {norms.sum, norms.h, norms.weight, norms.next_weight}))
        return fail(ENGINE_BAD_ARGUMENT, "norms that lie unevenly");
    if (n > ENGINE_NORMED_ROWS || i > ENGINE_NORMED_WIDTH)
        return fail(ENGINE_BAD_ARGUMENT, "%u rows of %u to be normed, at most %u of %u", n, i, ENGINE_NORMED_ROWS, ENGINE_NORMED_WIDTH);
    return n <= TILE ? launch(Tiles<1>()) : launch(Tiles<2>());
}

} // namespace few_rows

} // namespace ENGINE_NAMESPACE
