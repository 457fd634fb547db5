// linear_geglu: the gated unit of a product, and its gradient through the product that follows
//
//   x = h weight^T,  y = geglu(x)                     forward
//   dy = dz weight,  dx = geglu_backward(dy, x)       backward, weight being that of z = y weight^T
//
// Shapes    h (N, D) bf16     x = [gate, up], dx (N, 2F) bf16     y (N, F) bf16     dz (N, D) bf16
//           weight (2F, D) bf16 forward, (D, F) bf16 backward
// Numerics  sums in f32. y is that of the rounded x, which the backward reads; dy is not rounded
// Order     a block owns a tile and goes through the terms in order: no atomics, bit-equal reruns
// Cost      4 * N * D * F FLOP forward, half of that backward. For the few hundred rows of a batch of the tutorial both are bound by
//           memory and by their launches: x and dy are not read again, and two launches a layer are saved. With thousands of
//           rows a library's product is faster, and geglu.cu follows it
//
// All matrices come in tiles of 64 x 64, three buffers of them: two arrive while one is multiplied. At the end the sums lie in shared
// memory, so that a thread has eight neighbours. Few rows take few_rows.cuh.
#include "few_rows.cuh"
#include "geglu.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t TILE = 64;
constexpr uint32_t BUFFERS = 3;
constexpr uint32_t THREADS = 8 * WARP;
constexpr uint32_t ROWS = 32, COLUMNS = 16; // of a warp: eight make a tile
constexpr uint32_t PITCH = TILE + 8; // elements: the rows that ldmatrix takes at once lie in different banks
constexpr uint32_t MATRIX = TILE * PITCH; // elements of a tile in a buffer
constexpr uint32_t WIDTH = 8; // elements that a thread stores at once
static_assert(TILE == 2 * ROWS && TILE == 4 * COLUMNS);

/// Bytes of the buffers of products with so many right sides.
template <uint32_t RIGHTS> constexpr size_t SHARED_BYTES = BUFFERS * (1 + RIGHTS) * MATRIX * sizeof(bf16);

/// Starts to copy a tile of a matrix (height, width), whose rows lie `width` apart; zeros beyond its ends.
__device__ inline void fetch(bf16 *to, const bf16 *from, uint32_t row, uint32_t height, uint32_t column, uint32_t width) {
    constexpr uint32_t PIECES = TILE / WIDTH;
#pragma unroll
    for (uint32_t piece = threadIdx.x; piece < TILE * PIECES; piece += THREADS) {
        uint32_t r = piece / PIECES, c = piece % PIECES * WIDTH;
        bool exists = row + r < height && column + c < width;
        const bf16 *source = from + (exists ? size_t(row + r) * width + column + c : 0);
        copy_async_16_or_zero(to + r * PITCH + c, source, exists);
    }
}

/// The place of a warp's part in a tile.
struct Part {
    uint32_t lane = threadIdx.x % WARP;
    uint32_t row = threadIdx.x / WARP / 4 * ROWS;
    uint32_t column = threadIdx.x / WARP % 4 * COLUMNS;
};

/// Sums of a warp's part: of tile m of 16 rows and tile j of 8 columns.
using Sums = float[ROWS / 16][COLUMNS / 8][4];

/// sums[r] += left right_r of this warp's part of a buffer. A right side has its terms along its rows where it is TRANSPOSED: a part of
/// a weight (outputs, inputs).
template <bool TRANSPOSED, uint32_t RIGHTS>
__device__ inline void multiply(Sums (&sums)[RIGHTS], const bf16 *buffer, const Part &part) {
    uint32_t low = part.lane % 8, middle = part.lane / 8 % 2 * 8, high = part.lane / 16 * 8;
#pragma unroll
    for (uint32_t k = 0; k < TILE; k += 16) {
        uint32_t a[ROWS / 16][4];
#pragma unroll
        for (uint32_t m = 0; m < ROWS / 16; m++)
            ldmatrix(a[m], buffer + (part.row + 16 * m + middle + low) * PITCH + k + high);
#pragma unroll
        for (uint32_t right = 0; right < RIGHTS; right++) {
            const bf16 *from = buffer + (1 + right) * MATRIX;
            uint32_t b[4];
            if constexpr (TRANSPOSED)
                ldmatrix(b, from + (part.column + high + low) * PITCH + k + middle);
            else
                ldmatrix_transposed(b, from + (k + middle + low) * PITCH + part.column + high);
#pragma unroll
            for (uint32_t m = 0; m < ROWS / 16; m++)
#pragma unroll
                for (uint32_t j = 0; j < COLUMNS / 8; j++) {
                    const uint32_t column[2] = {b[2 * j], b[2 * j + 1]};
                    mma_bf16(sums[right][m][j], a[m], column);
                }
        }
    }
}

/// The sums of a block's tiles over `terms` terms; begin(buffer, k) starts to copy the tiles of the terms from k on. Then the buffers are
/// free.
template <bool TRANSPOSED, uint32_t RIGHTS, class Begin>
__device__ inline void product(Sums (&sums)[RIGHTS], bf16 *shared, uint32_t terms, const Part &part, const Begin &begin) {
    constexpr uint32_t BUFFER = (1 + RIGHTS) * MATRIX;
    uint32_t steps = (terms + TILE - 1) / TILE;
    auto begin_step = [&](uint32_t step) {
        if (step < steps) begin(shared + step % BUFFERS * BUFFER, step * TILE);
        copy_commit();
    };
    for (uint32_t step = 0; step + 1 < BUFFERS; step++) begin_step(step);
    for (uint32_t step = 0; step < steps; step++) {
        copy_wait<BUFFERS - 2>();
        __syncthreads(); // this step's tiles are here, and nobody needs the last one's
        begin_step(step + BUFFERS - 1);
        multiply<TRANSPOSED>(sums, shared + step % BUFFERS * BUFFER, part);
    }
    copy_wait<0>();
    __syncthreads(); // nobody needs the buffers
}

/// visit(row, column, pair) for each pair of neighbouring sums of a thread, placed in the tile.
template <class Visit> __device__ inline void for_each_pair(const Sums &sums, const Part &part, const Visit &visit) {
#pragma unroll
    for (uint32_t m = 0; m < ROWS / 16; m++)
#pragma unroll
        for (uint32_t j = 0; j < COLUMNS / 8; j++)
#pragma unroll
            for (uint32_t half = 0; half < 2; half++) {
                uint32_t row = part.row + 16 * m + 8 * half + part.lane / 4, column = part.column + 8 * j + part.lane % 4 * 2;
                visit(row, column, sums[m][j] + 2 * half);
            }
}

/// visit(row, column) for each run of WIDTH elements of the block's tile that exists, one thread each.
template <class Visit> __device__ inline void for_each_run(uint32_t rows, uint32_t columns, const Visit &visit) {
    constexpr uint32_t RUNS = TILE / WIDTH;
#pragma unroll
    for (uint32_t run = threadIdx.x; run < TILE * RUNS; run += THREADS) {
        uint32_t row = run / RUNS, column = run % RUNS * WIDTH;
        if (row < rows && column < columns) visit(row, column);
    }
}

__global__ void __launch_bounds__(THREADS, 2)
    linear_geglu_forward_kernel(bf16 *y, bf16 *x, const bf16 *h, const bf16 *weight, uint32_t n, uint32_t d, uint32_t f) {
    wait_for_earlier_kernels();
    DYNAMIC_SHARED(bf16, shared, SHARED_BYTES<2>);
    constexpr uint32_t STAGED = 2 * TILE + 8; // elements of a row of both halves of x
    uint32_t row = blockIdx.y * TILE, column = blockIdx.x * TILE;
    Part part;
    Sums sums[2] = {};
    product<true>(sums, shared, d, part, [&](bf16 *buffer, uint32_t k) {
        fetch(buffer, h, row, n, k, d);
        fetch(buffer + MATRIX, weight, column, f, k, d);
        fetch(buffer + 2 * MATRIX, weight + size_t(f) * d, column, f, k, d);
    });
#pragma unroll
    for (uint32_t side = 0; side < 2; side++)
        for_each_pair(sums[side], part, [&](uint32_t r, uint32_t c, const float *pair) {
            uint32_t word = pack_bf16(pair[0], pair[1]);
            memcpy(shared + r * STAGED + side * TILE + c, &word, sizeof word);
        });
    __syncthreads();
    for_each_run(n - row, f - column, [&](uint32_t r, uint32_t c) {
        float gate[WIDTH], up[WIDTH];
        load(gate, shared + r * STAGED + c);
        load(up, shared + r * STAGED + TILE + c);
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

__global__ void __launch_bounds__(THREADS, 2)
    linear_geglu_backward_kernel(bf16 *dx, const bf16 *dz, const bf16 *weight, const bf16 *x, uint32_t n, uint32_t d,
                                 uint32_t f) {
    wait_for_earlier_kernels();
    DYNAMIC_SHARED(bf16, shared, SHARED_BYTES<1>);
    constexpr uint32_t STAGED = TILE + 8; // f32 numbers of a row of dy
    static_assert(TILE * STAGED * sizeof(float) <= SHARED_BYTES<1>);
    float *dy = reinterpret_cast<float *>(shared);
    uint32_t row = blockIdx.y * TILE, column = blockIdx.x * TILE;
    Part part;
    Sums sums[1] = {};
    product<false>(sums, shared, d, part, [&](bf16 *buffer, uint32_t k) {
        fetch(buffer, dz, row, n, k, d);
        fetch(buffer + MATRIX, weight, k, d, column, f);
    });
    for_each_pair(sums[0], part, [&](uint32_t r, uint32_t c, const float *pair) {
        const float both[2] = {pair[0], pair[1]};
        store(dy + r * STAGED + c, both);
    });
    __syncthreads();
    for_each_run(n - row, f - column, [&](uint32_t r, uint32_t c) {
        size_t at = size_t(row + r) * 2 * f + column + c; // of the gate
        float gate[WIDTH], up[WIDTH], slopes[WIDTH];
        load(gate, x + at);
        load(up, x + at + f);
        load(slopes, dy + r * STAGED + c);
#pragma unroll
        for (uint32_t i = 0; i < WIDTH; i++) gated_backward(gate[i], up[i], slopes[i]);
        store(dx + at, gate);
        store(dx + at + f, up);
    });
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

dim3 tiles(uint32_t n, uint32_t f) { return dim3(ceil_div(f, TILE), ceil_div(n, TILE)); }

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
    if (n > ENGINE_FEW_ROWS)
        return LAUNCH(linear_geglu_forward_kernel, tiles(n, f), THREADS, SHARED_BYTES<2>, stream, out, kept, in, by, n, d, f);
    return few_rows::with_tiles(n, [&](auto tiles) {
        return LAUNCH((linear_geglu_few_rows_kernel<decltype(tiles)::COUNT>), f / few_rows::OUTPUTS, few_rows::THREADS, 0,
                      stream, out, kept, in, by, n, d, f);
    });
}

engine_status linear_geglu_backward(void *dx, const void *dz, const void *weight, const void *x, uint32_t n, uint32_t d,
                                    uint32_t f, engine_dtype dtype, engine_stream stream) {
    if (engine_status bad = check("linear_geglu_backward", d, f, {dx, dz, weight, x}, dtype)) return bad;
    if (n == 0 || f == 0) return ENGINE_OK;
    return LAUNCH(linear_geglu_backward_kernel, tiles(n, f), THREADS, SHARED_BYTES<1>, stream, static_cast<bf16 *>(dx),
                  static_cast<const bf16 *>(dz), static_cast<const bf16 *>(weight), static_cast<const bf16 *>(x), n, d, f);
}

} // namespace ENGINE_NAMESPACE
