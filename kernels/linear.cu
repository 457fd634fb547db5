// linear: y = x weight^T for few rows. With more of them a library's product is faster; this one is few_rows.cuh
//
// Shapes    y (N, O) bf16     x (N, I) bf16     weight (O, I) bf16
// Numerics  sums in f32, one rounding
#include "few_rows.cuh"

namespace ENGINE_NAMESPACE {
namespace {

using namespace few_rows;

/// Rounds a product to its place in rows o apart.
struct Store {
    bf16 *y;
    uint32_t o;

    __device__ void operator()(uint32_t row, uint32_t output, const float (&sums)[1]) const {
        y[size_t(row) * o + output] = from_float<bf16>(sums[0]);
    }
};

template <uint32_t TILES>
__global__ void __launch_bounds__(THREADS, TILES < 4 ? 4 : BLOCKS) // without a wish ptxas takes registers for three
    linear_few_rows_kernel(bf16 *y, const bf16 *x, const bf16 *weight, uint32_t n, uint32_t i, uint32_t o) {
    uint32_t first = blockIdx.x * OUTPUTS;
    const bf16 *const weights[1] = {weight + size_t(first) * i};
    products<1, TILES>(x, weights, n, i, Store{y + first, o});
}

template <uint32_t TILES>
__global__ void __launch_bounds__(THREADS, BLOCKS)
    linear_normed_rows_kernel(bf16 *y, const bf16 *x, const bf16 *weight, engine_norm_pair norms, uint32_t n, uint32_t i,
                              uint32_t o) {
    uint32_t first = blockIdx.x * OUTPUTS;
    const bf16 *const weights[1] = {weight + size_t(first) * i};
    normed_products<1, TILES>(x, norms, weights, n, i, Store{y + first, o});
}

} // namespace

engine_status linear_few_rows(void *y, const void *x, const void *weight, const engine_norm_pair *norms, uint32_t n,
                              uint32_t i, uint32_t o, engine_dtype dtype, engine_stream stream) {
    if (dtype != ENGINE_BF16) return fail(ENGINE_BAD_ARGUMENT, "linear_few_rows is for bf16");
    if (!lie_evenly({i, o}, {x, weight}))
        return fail(ENGINE_BAD_ARGUMENT, "a weight of %u x %u that lies unevenly", o, i);
    if (n == 0 || o == 0) return ENGINE_OK;
    if (norms)
        return with_normed_tiles(*norms, n, i, [&](auto tiles) {
            constexpr uint32_t TILES = decltype(tiles)::COUNT;
            return LAUNCH((linear_normed_rows_kernel<TILES>), o / OUTPUTS, THREADS, (normed_bytes<1, TILES>(n, i)), stream,
                          static_cast<bf16 *>(y), static_cast<const bf16 *>(x), static_cast<const bf16 *>(weight), *norms, n,
                          i, o);
        });
    return with_tiles(n, [&](auto tiles) {
        return LAUNCH((linear_few_rows_kernel<decltype(tiles)::COUNT>), o / OUTPUTS, THREADS, 0, stream,
                      static_cast<bf16 *>(y), static_cast<const bf16 *>(x), static_cast<const bf16 *>(weight), n, i, o);
    });
}

} // namespace ENGINE_NAMESPACE
