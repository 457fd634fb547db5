// linear_geglu: the gated unit of a product, and its gradient through the product that follows
//
//   x = h weight^T,  y = geglu(x)                     forward
//   dy = dz weight,  dx = geglu_backward(dy, x)       backward, weight being that of z = y weight^T; gives y, too, which nobody has kept
//
// Shapes    h (N, D) bf16     x = [gate, up], dx (N, 2F) bf16     y (N, F) bf16     dz (N, D) bf16
//           weight (2F, D) bf16 forward, (D, F) bf16 backward
// Numerics  sums in f32. y is that of the rounded x, which the backward reads; dy is not rounded
// Order     a block owns a tile and goes through the terms in order: no atomics, bit-equal reruns
// Cost      4 * N * D * F FLOP forward, half of that backward. For the few hundred rows of a batch of the tutorial both are bound by
//           memory and by their launches: x and dy are not read again, and two launches a layer are saved. With thousands of rows
//           the products are bound by arithmetic, and the passes over x and dy would be half as long as they: 12 and 20 bytes a unit.
//           Between the two a library's product is faster, and geglu.cu follows it
//
// All matrices come in tiles, three buffers of them: two arrive while one is multiplied. A batch of a few hundred rows gets small tiles, so that
// there are blocks for all of the chip; thousands of rows get large ones, which are read from the cache half as often. At the end the sums
// lie in shared memory, so that a thread has eight neighbours. Few rows take few_rows.cuh.
#include "few_rows.cuh"
#include "geglu.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t BUFFERS = 3;
constexpr uint32_t WARPS_DOWN = 2, WARPS_ACROSS = 4; // of a block's tile
constexpr uint32_t THREADS = WARPS_DOWN * WARPS_ACROSS * WARP;
constexpr uint32_t WIDTH = 8; // elements that a thread copies or stores at once

/// How a product of one left side and RIGHTS_ right sides is cut up: a block has ROWS_ rows, and COLUMNS_ columns of each right side;
/// DEPTH_ terms are in a buffer; BLOCKS_ blocks are to fit on a multiprocessor. A right side has its terms along its rows where it is
/// TRANSPOSED_: a part of a weight (outputs, inputs).
template <uint32_t RIGHTS_, bool TRANSPOSED_, uint32_t ROWS_, uint32_t COLUMNS_, uint32_t DEPTH_, uint32_t BLOCKS_> struct Cut {
    static constexpr uint32_t RIGHTS = RIGHTS_, ROWS = ROWS_, COLUMNS = COLUMNS_, DEPTH = DEPTH_, BLOCKS = BLOCKS_;
    static constexpr bool TRANSPOSED = TRANSPOSED_;
    // Of a warp.
    static constexpr uint32_t OWN_ROWS = ROWS / WARPS_DOWN, OWN_COLUMNS = COLUMNS / WARPS_ACROSS;
    static_assert(OWN_ROWS % 16 == 0 && OWN_COLUMNS % 16 == 0 && DEPTH % 16 == 0);
    // Elements between rows: those that ldmatrix takes at once lie in different banks.
    static constexpr uint32_t PITCH = DEPTH + 8, RIGHT_PITCH = TRANSPOSED ? PITCH : COLUMNS + 8;
    // Elements of a side in a buffer.
    static constexpr uint32_t LEFT = ROWS * PITCH, RIGHT = (TRANSPOSED ? COLUMNS : DEPTH) * RIGHT_PITCH;
    static constexpr uint32_t BUFFER = LEFT + RIGHTS * RIGHT;
    static constexpr size_t SHARED_BYTES = BUFFERS * BUFFER * sizeof(bf16);
};

using SmallForward = Cut<2, true, 64, 64, 64, 2>;
using SmallBackward = Cut<1, false, 64, 64, 64, 2>;
// A warp has 64 x 64 sums, which are 128 registers of a thread.
using LargeForward = Cut<2, true, 128, 128, 32, 1>;
using LargeBackward = Cut<1, false, 128, 256, 32, 1>;

/// Starts to copy a part (HEIGHT, ACROSS) of a matrix (height, width), whose rows lie `width` apart; zeros beyond its ends.
template <uint32_t HEIGHT, uint32_t ACROSS, uint32_t PITCH>
__device__ inline void fetch(bf16 *to, const bf16 *from, uint32_t row, uint32_t height, uint32_t column, uint32_t width) {
    constexpr uint32_t PIECES = ACROSS / WIDTH;
#pragma unroll
    for (uint32_t piece = threadIdx.x; piece < HEIGHT * PIECES; piece += THREADS) {
        uint32_t r = piece / PIECES, c = piece % PIECES * WIDTH;
        bool exists = row + r < height && column + c < width;
        const bf16 *source = from + (exists ? size_t(row + r) * width + column + c : 0);
        copy_async_16_or_zero(to + r * PITCH + c, source, exists);
    }
}

/// The place of a warp's part in a tile.
template <class C> struct Part {
    uint32_t lane = threadIdx.x % WARP;
    uint32_t row = threadIdx.x / WARP / WARPS_ACROSS * C::OWN_ROWS;
    uint32_t column = threadIdx.x / WARP % WARPS_ACROSS * C::OWN_COLUMNS;
};

/// Sums of a warp's part: of tile m of 16 rows and tile j of 8 columns.
template <class C> using Sums = float[C::OWN_ROWS / 16][C::OWN_COLUMNS / 8][4];

/// sums[r] += left right_r of this warp's part of a buffer.
template <class C> __device__ inline void multiply(Sums<C> (&sums)[C::RIGHTS], const bf16 *buffer, const Part<C> &part) {
    uint32_t low = part.lane % 8, middle = part.lane / 8 % 2 * 8, high = part.lane / 16 * 8;
#pragma unroll
    for (uint32_t k = 0; k < C::DEPTH; k += 16) {
        uint32_t a[C::OWN_ROWS / 16][4];
#pragma unroll
        for (uint32_t m = 0; m < C::OWN_ROWS / 16; m++)
            ldmatrix(a[m], buffer + (part.row + 16 * m + middle + low) * C::PITCH + k + high);
#pragma unroll
        for (uint32_t right = 0; right < C::RIGHTS; right++) {
            const bf16 *from = buffer + C::LEFT + right * C::RIGHT;
#pragma unroll
            for (uint32_t pair = 0; pair < C::OWN_COLUMNS / 16; pair++) {
                uint32_t b[4], column = part.column + 16 * pair;
                if constexpr (C::TRANSPOSED)
                    ldmatrix(b, from + (column + high + low) * C::RIGHT_PITCH + k + middle);
                else
                    ldmatrix_transposed(b, from + (k + middle + low) * C::RIGHT_PITCH + column + high);
#pragma unroll
                for (uint32_t m = 0; m < C::OWN_ROWS / 16; m++)
#pragma unroll
                    for (uint32_t j = 0; j < 2; j++) {
                        const uint32_t half[2] = {b[2 * j], b[2 * j + 1]};
                        mma_bf16(sums[right][m][2 * pair + j], a[m], half);
                    }
            }
        }
    }
}

/// The sums of a block's tiles over `terms` terms; begin(buffer, k) starts to copy the tiles of the terms from k on. Then the buffers are
/// free.
template <class C, class Begin>
__device__ inline void product(Sums<C> (&sums)[C::RIGHTS], bf16 *shared, uint32_t terms, const Part<C> &part,
                               const Begin &begin) {
    uint32_t steps = (terms + C::DEPTH - 1) / C::DEPTH;
    auto begin_step = [&](uint32_t step) {
        if (step < steps) begin(shared + step % BUFFERS * C::BUFFER, step * C::DEPTH);
        copy_commit();
    };
    for (uint32_t step = 0; step + 1 < BUFFERS; step++) begin_step(step);
    for (uint32_t step = 0; step < steps; step++) {
        copy_wait<BUFFERS - 2>();
        __syncthreads(); // this step's tiles are here, and nobody needs the last one's
        begin_step(step + BUFFERS - 1);
        multiply<C>(sums, shared + step % BUFFERS * C::BUFFER, part);
    }
    copy_wait<0>();
    __syncthreads(); // nobody needs the buffers
}

/// visit(row, column, pair) for each pair of neighbouring sums of a thread, placed in the tile.
template <class C, class Visit>
__device__ inline void for_each_pair(const Sums<C> &sums, const Part<C> &part, const Visit &visit) {
#pragma unroll
    for (uint32_t m = 0; m < C::OWN_ROWS / 16; m++)
#pragma unroll
        for (uint32_t j = 0; j < C::OWN_COLUMNS / 8; j++)
#pragma unroll
            for (uint32_t half = 0; half < 2; half++) {
                uint32_t row = part.row + 16 * m + 8 * half + part.lane / 4, column = part.column + 8 * j + part.lane % 4 * 2;
                visit(row, column, sums[m][j] + 2 * half);
            }
}

/// visit(row, column) for each run of WIDTH elements of ROWS rows of the block's tile that exists, one thread each.
template <uint32_t ROWS, uint32_t COLUMNS, class Visit>
__device__ inline void for_each_run(uint32_t rows, uint32_t columns, const Visit &visit) {
    constexpr uint32_t RUNS = COLUMNS / WIDTH;
#pragma unroll 2
    for (uint32_t run = threadIdx.x; run < ROWS * RUNS; run += THREADS) {
        uint32_t row = run / RUNS, column = run % RUNS * WIDTH;
        if (row < rows && column < columns) visit(row, column);
    }
}

template <class C>
__global__ void __launch_bounds__(THREADS, C::BLOCKS)
    linear_geglu_forward_kernel(bf16 *y, bf16 *x, const bf16 *h, const bf16 *weight, uint32_t n, uint32_t d, uint32_t f) {
    wait_for_earlier_kernels();
    DYNAMIC_SHARED(bf16, shared, C::SHARED_BYTES);
    constexpr uint32_t STAGED = 2 * C::COLUMNS + 8; // elements of a row of both halves of x
    static_assert(C::ROWS * STAGED * sizeof(bf16) <= C::SHARED_BYTES);
    uint32_t row = blockIdx.y * C::ROWS, column = blockIdx.x * C::COLUMNS;
    Part<C> part;
    Sums<C> sums[2] = {};
    product<C>(sums, shared, d, part, [&](bf16 *buffer, uint32_t k) {
        fetch<C::ROWS, C::DEPTH, C::PITCH>(buffer, h, row, n, k, d);
        fetch<C::COLUMNS, C::DEPTH, C::PITCH>(buffer + C::LEFT, weight, column, f, k, d);
        fetch<C::COLUMNS, C::DEPTH, C::PITCH>(buffer + C::LEFT + C::RIGHT, weight + size_t(f) * d, column, f, k, d);
    });
#pragma unroll
    for (uint32_t side = 0; side < 2; side++)
        for_each_pair<C>(sums[side], part, [&](uint32_t r, uint32_t c, const float *pair) {
            uint32_t word = pack_bf16(pair[0], pair[1]);
            memcpy(shared + r * STAGED + side * C::COLUMNS + c, &word, sizeof word);
        });
    __syncthreads();
    for_each_run<C::ROWS, C::COLUMNS>(n - row, f - column, [&](uint32_t r, uint32_t c) {
        float gate[WIDTH], up[WIDTH];
        load(gate, shared + r * STAGED + c);
        load(up, shared + r * STAGED + C::COLUMNS + c);
        if (x) {
            bf16 *to = x + size_t(row + r) * 2 * f + column + c;
            store(to, gate);
            store(to + f, up);
        }
#pragma unroll
        for (uint32_t i = 0; i < WIDTH; i++) gate[i] = gated(gate[i], up[i]);
        store(y + size_t(row + r) * f + column + c, gate);
    });
}

template <class C>
__global__ void __launch_bounds__(THREADS, C::BLOCKS)
    linear_geglu_backward_kernel(bf16 *dx, bf16 *y, const bf16 *dz, const bf16 *weight, const bf16 *x, uint32_t n, uint32_t d,
                                 uint32_t f) {
    wait_for_earlier_kernels();
    DYNAMIC_SHARED(bf16, shared, C::SHARED_BYTES);
    constexpr uint32_t STAGED = C::COLUMNS + 8; // f32 numbers of a row of dy
    constexpr uint32_t STAGED_ROWS = 64; // of so many rows at once is there room
    static_assert(STAGED_ROWS * STAGED * sizeof(float) <= C::SHARED_BYTES && STAGED_ROWS % C::OWN_ROWS == 0);
    float *dy = reinterpret_cast<float *>(shared);
    uint32_t row = blockIdx.y * C::ROWS, column = blockIdx.x * C::COLUMNS;
    Part<C> part;
    Sums<C> sums[1] = {};
    product<C>(sums, shared, d, part, [&](bf16 *buffer, uint32_t k) {
        fetch<C::ROWS, C::DEPTH, C::PITCH>(buffer, dz, row, n, k, d);
        fetch<C::DEPTH, C::COLUMNS, C::RIGHT_PITCH>(buffer + C::LEFT, weight, k, d, column, f);
    });
    for (uint32_t first = 0; first < C::ROWS && row + first < n; first += STAGED_ROWS) {
        if (first > 0) __syncthreads(); // nobody needs the rows before these
        if (part.row / STAGED_ROWS * STAGED_ROWS == first)
            for_each_pair<C>(sums[0], part, [&](uint32_t r, uint32_t c, const float *pair) {
                const float both[2] = {pair[0], pair[1]};
                store(dy + (r - first) * STAGED + c, both);
            });
        __syncthreads();
        for_each_run<STAGED_ROWS, C::COLUMNS>(n - row - first, f - column, [&](uint32_t r, uint32_t c) {
            size_t own = size_t(row + first + r), at = own * 2 * f + column + c; // of the gate
            float gate[WIDTH], up[WIDTH], slopes[WIDTH];
            load(gate, x + at);
            load(up, x + at + f);
            load(slopes, dy + r * STAGED + c);
            if (y) {
                float unit[WIDTH];
#pragma unroll
                for (uint32_t i = 0; i < WIDTH; i++) unit[i] = gated(gate[i], up[i]);
                store(y + own * f + column + c, unit);
            }
#pragma unroll
            for (uint32_t i = 0; i < WIDTH; i++) gated_backward(gate[i], up[i], slopes[i]);
            store(dx + at, gate);
            store(dx + at + f, up);
        });
    }
}

/// The unit of a row and a column from its two sums.
__device__ inline void finish_few_rows(bf16 *y, bf16 *x, uint32_t row, uint32_t column, uint32_t f, const float (&sums)[2]) {
    bf16 gate = from_float<bf16>(sums[0]), up = from_float<bf16>(sums[1]);
    if (x) {
        bf16 *to = x + size_t(row) * 2 * f + column;
        to[0] = gate, to[f] = up;
    }
    y[size_t(row) * f + column] = from_float<bf16>(gated(to_float(gate), to_float(up)));
}

template <uint32_t TILES>
__global__ void __launch_bounds__(few_rows::THREADS, few_rows::BLOCKS)
    linear_geglu_few_rows_kernel(bf16 *y, bf16 *x, const bf16 *h, const bf16 *weight, uint32_t n, uint32_t d, uint32_t f) {
    uint32_t first = blockIdx.x * few_rows::OUTPUTS;
    const bf16 *const weights[2] = {weight + size_t(first) * d, weight + size_t(f + first) * d};
    few_rows::products<2, TILES>(h, weights, n, d, [&](uint32_t row, uint32_t output, const float (&sums)[2]) {
        finish_few_rows(y, x, row, first + output, f, sums);
    });
}

template <uint32_t TILES>
__global__ void __launch_bounds__(few_rows::THREADS, few_rows::BLOCKS)
    linear_geglu_normed_rows_kernel(bf16 *y, bf16 *x, const bf16 *h, const bf16 *weight, engine_norm_pair norms, uint32_t n,
                                    uint32_t d, uint32_t f) {
    uint32_t first = blockIdx.x * few_rows::OUTPUTS;
    const bf16 *const weights[2] = {weight + size_t(first) * d, weight + size_t(f + first) * d};
    few_rows::normed_products<2, TILES>(h, norms, weights, n, d, [&](uint32_t row, uint32_t output, const float (&sums)[2]) {
        finish_few_rows(y, x, row, first + output, f, sums);
    });
}

/// Refuses what these kernels are not for.
engine_status check(const char *launcher, uint32_t d, uint32_t f, std::initializer_list<const void *> addresses,
                    engine_dtype dtype) {
    if (dtype != ENGINE_BF16) return fail(ENGINE_BAD_ARGUMENT, "%s is for bf16", launcher);
    if (!lie_evenly({d, f}, addresses))
        return fail(ENGINE_BAD_ARGUMENT, "a unit of %u x %u that lies unevenly", f, d);
    return ENGINE_OK;
}

template <class C> dim3 tiles(uint32_t n, uint32_t f) { return dim3(ceil_div(f, C::COLUMNS), ceil_div(n, C::ROWS)); }

} // namespace

engine_status linear_geglu_forward(void *y, void *x, const void *h, const void *weight, const engine_norm_pair *norms,
                                   uint32_t n, uint32_t d, uint32_t f, engine_dtype dtype, engine_stream stream) {
    if (engine_status bad = check("linear_geglu_forward", d, f, {y, x, h, weight}, dtype)) return bad;
    if (n == 0 || f == 0) return ENGINE_OK;
    bf16 *out = static_cast<bf16 *>(y), *kept = static_cast<bf16 *>(x);
    const bf16 *in = static_cast<const bf16 *>(h), *by = static_cast<const bf16 *>(weight);
    if (norms)
        return few_rows::with_normed_tiles(*norms, n, d, [&](auto tiles) {
            constexpr uint32_t TILES = decltype(tiles)::COUNT;
            return LAUNCH((linear_geglu_normed_rows_kernel<TILES>), f / few_rows::OUTPUTS, few_rows::THREADS,
                          (few_rows::normed_bytes<2, TILES>(n, d)), stream, out, kept, in, by, *norms, n, d, f);
        });
    auto by_tiles = [&](auto cut) {
        using C = decltype(cut);
        return LAUNCH((linear_geglu_forward_kernel<C>), tiles<C>(n, f), THREADS, C::SHARED_BYTES, stream, out, kept, in, by, n, d,
                      f);
    };
    if (n >= ENGINE_MANY_ROWS) return by_tiles(LargeForward());
    if (n > ENGINE_FEW_ROWS) return by_tiles(SmallForward());
    return few_rows::with_tiles(n, [&](auto tiles) {
        return LAUNCH((linear_geglu_few_rows_kernel<decltype(tiles)::COUNT>), f / few_rows::OUTPUTS, few_rows::THREADS, 0,
                      stream, out, kept, in, by, n, d, f);
    });
}

engine_status linear_geglu_backward(void *dx, void *y, const void *dz, const void *weight, const void *x, uint32_t n,
                                    uint32_t d, uint32_t f, engine_dtype dtype, engine_stream stream) {
    if (engine_status bad = check("linear_geglu_backward", d, f, {dx, y, dz, weight, x}, dtype)) return bad;
    if (n == 0 || f == 0) return ENGINE_OK;
    auto by_tiles = [&](auto cut) {
        using C = decltype(cut);
        return LAUNCH((linear_geglu_backward_kernel<C>), tiles<C>(n, f), THREADS, C::SHARED_BYTES, stream,
                      static_cast<bf16 *>(dx), static_cast<bf16 *>(y), static_cast<const bf16 *>(dz),
                      static_cast<const bf16 *>(weight), static_cast<const bf16 *>(x), n, d, f);
    };
    return n >= ENGINE_MANY_ROWS ? by_tiles(LargeBackward()) : by_tiles(SmallBackward());
}

} // namespace ENGINE_NAMESPACE
