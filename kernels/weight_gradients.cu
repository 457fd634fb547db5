// weight_gradients: dweight = or += dy^T x, of many weights in one launch, and the sums of their squares
//
// Shapes    dweight (O, I) f32     dy (N, O) bf16     x (N, I) bf16     squares: one f32 for each tile of 128 x 128 of each weight
// Numerics  products of bf16 are exact in f32, sums in f32; squares of what is stored, in f32 within a tile
// Order     a block owns a tile and goes through the rows in order: no atomics, bit-equal reruns
// Cost      2 * N * O * I FLOP; 4 * O * I bytes written. For the few hundred rows of a batch that is memory bound, so that one
//           launch at the rate of memory is all that there is to win: no weight waits for the blocks of another, and the norm of
//           the gradient needs no pass of its own. With thousands of rows a library's product is faster
//
// Three buffers of 32 rows: two arrive while one is multiplied. Both matrices lie with their rows, the terms of the sums, outermost:
// ldmatrix transposes both.
#include "reduce.cuh"
#include "tensor_core.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t TILE = ENGINE_GRADIENT_TILE;
constexpr uint32_t DEPTH = 32; // rows of dy and x in a buffer
constexpr uint32_t BUFFERS = 3;
constexpr uint32_t THREADS = 8 * WARP;
constexpr uint32_t ROWS = 64, COLUMNS = 32; // of a warp: eight make a tile
constexpr uint32_t PITCH = TILE + 8; // elements: the rows that ldmatrix takes at once lie in different banks
constexpr uint32_t MATRIX = DEPTH * PITCH; // elements of a buffer of dy, and then of x
constexpr size_t SHARED_BYTES = BUFFERS * 2 * MATRIX * sizeof(bf16);
static_assert(TILE == 2 * ROWS && TILE == 4 * COLUMNS);

/// The weights of a launch. Tiles `starts[w] .. starts[w + 1]` are those of weight w.
struct Weights {
    engine_weight_gradient at[ENGINE_MOST_WEIGHT_GRADIENTS];
    uint32_t starts[ENGINE_MOST_WEIGHT_GRADIENTS + 1];
    uint32_t count;
};
static_assert(sizeof(Weights) + sizeof(void *) <= 4096); // what a kernel's arguments may take

/// Starts to copy DEPTH rows of a matrix (n, width) from `row` on, of which TILE columns from `column` on; zeros beyond its ends.
__device__ inline void fetch(bf16 *to, const void *from, uint32_t row, uint32_t n, uint32_t column, uint32_t width) {
    constexpr uint32_t PIECE = 8, PIECES = TILE / PIECE;
#pragma unroll
    for (uint32_t piece = threadIdx.x; piece < DEPTH * PIECES; piece += THREADS) {
        uint32_t r = piece / PIECES, c = piece % PIECES * PIECE;
        bool exists = row + r < n && column + c < width;
        const bf16 *source = static_cast<const bf16 *>(from) + (exists ? size_t(row + r) * width + column + c : 0);
        copy_async_16_or_zero(to + r * PITCH + c, source, exists);
    }
}

/// sums += dy^T x of a warp's part of a buffer.
__device__ inline void multiply(float (&sums)[4][4][4], const bf16 *dy, const bf16 *x, uint32_t lane) {
#pragma unroll
    for (uint32_t k = 0; k < DEPTH; k += 16) {
        uint32_t a[4][4], b[2][4];
#pragma unroll
        for (uint32_t m = 0; m < 4; m++)
            ldmatrix_transposed(a[m], dy + (k + lane / 16 * 8 + lane % 8) * PITCH + 16 * m + lane / 8 % 2 * 8);
#pragma unroll
        for (uint32_t j = 0; j < 2; j++)
            ldmatrix_transposed(b[j], x + (k + lane / 8 % 2 * 8 + lane % 8) * PITCH + 16 * j + lane / 16 * 8);
#pragma unroll
        for (uint32_t m = 0; m < 4; m++)
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                const uint32_t right[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
                mma_bf16(sums[m][j], a[m], right);
            }
    }
}

__global__ void __launch_bounds__(THREADS, 2)
    weight_gradients_kernel(float *squares, const __grid_constant__ Weights weights) {
    wait_for_earlier_kernels();
    DYNAMIC_SHARED(bf16, shared, SHARED_BYTES);
    uint32_t number = interval_of(weights.starts, weights.count, blockIdx.x);
    const engine_weight_gradient &of = weights.at[number];
    uint32_t n = of.n, o = of.o, width = of.i;
    uint32_t across = (width + TILE - 1) / TILE, tile = blockIdx.x - weights.starts[number];
    uint32_t row = tile / across * TILE, column = tile % across * TILE;
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    uint32_t warp_row = warp / 4 * ROWS, warp_column = warp % 4 * COLUMNS;
    uint32_t steps = (n + DEPTH - 1) / DEPTH;
    auto begin = [&](uint32_t step) {
        if (step < steps) {
            bf16 *buffer = shared + step % BUFFERS * 2 * MATRIX;
            fetch(buffer, of.dy, step * DEPTH, n, row, o);
            fetch(buffer + MATRIX, of.x, step * DEPTH, n, column, width);
        }
        copy_commit();
    };
    for (uint32_t step = 0; step + 1 < BUFFERS; step++) begin(step);
    float sums[4][4][4] = {};
    for (uint32_t step = 0; step < steps; step++) {
        copy_wait<BUFFERS - 2>();
        __syncthreads(); // this step's rows are here, and nobody needs the last one's
        begin(step + BUFFERS - 1);
        const bf16 *buffer = shared + step % BUFFERS * 2 * MATRIX;
        multiply(sums, buffer + warp_row, buffer + MATRIX + warp_column, lane);
    }
    copy_wait<0>();
    float square = 0;
#pragma unroll
    for (uint32_t m = 0; m < 4; m++)
#pragma unroll
        for (uint32_t j = 0; j < 4; j++)
#pragma unroll
            for (uint32_t half = 0; half < 2; half++) {
                uint32_t r = row + warp_row + 16 * m + 8 * half + lane / 4, c = column + warp_column + 8 * j + lane % 4 * 2;
                if (r >= o || c >= width) continue;
                float *to = static_cast<float *>(of.dweight) + size_t(r) * width + c;
                float pair[2] = {sums[m][j][2 * half], sums[m][j][2 * half + 1]};
                if (of.accumulate) {
                    float before[2];
                    load(before, to);
                    pair[0] += before[0], pair[1] += before[1];
                }
                store(to, pair);
                square += pair[0] * pair[0] + pair[1] * pair[1];
            }
    square = block_sum<THREADS>(square);
    if (squares && threadIdx.x == 0) squares[blockIdx.x] = square;
}

} // namespace

engine_status weight_gradients(void *squares, const engine_weight_gradient *gradients, uint32_t count, engine_dtype dtype,
                               engine_stream stream) {
    if (dtype != ENGINE_BF16) return fail(ENGINE_BAD_ARGUMENT, "weight_gradients is for bf16");
    if (count > ENGINE_MOST_WEIGHT_GRADIENTS)
        return fail(ENGINE_BAD_ARGUMENT, "%u weights, at most %u", count, ENGINE_MOST_WEIGHT_GRADIENTS);
    Weights weights = {};
    for (uint32_t w = 0; w < count; w++) {
        const engine_weight_gradient &of = gradients[w];
        auto misplaced = [](const void *address) { return reinterpret_cast<uintptr_t>(address) % 16 != 0; };
        if (of.o % 8 != 0 || of.i % 8 != 0 || misplaced(of.dweight) || misplaced(of.dy) || misplaced(of.x))
            return fail(ENGINE_BAD_ARGUMENT, "a weight of %u x %u that lies unevenly", of.o, of.i);
        weights.at[w] = of;
        weights.starts[w + 1] = weights.starts[w] + ceil_div(of.o, TILE) * ceil_div(of.i, TILE);
    }
    weights.count = count;
    uint32_t tiles = weights.starts[count];
    if (tiles == 0) return ENGINE_OK;
    return LAUNCH(weight_gradients_kernel, tiles, THREADS, SHARED_BYTES, stream, static_cast<float *>(squares), weights);
}

} // namespace ENGINE_NAMESPACE
