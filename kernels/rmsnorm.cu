// rmsnorm: y = x * rstd * (1 + weight),  rstd = 1 / sqrt(mean(x^2) + eps)
// pair:    sum = h + rmsnorm(x, weight);  y = rmsnorm(sum, next_weight): the norm that closes a block, and the one that opens the next
//
// Shapes    y, h, x, sum, dy, dh, dx, dsum (N, D) T     weights (D) T     rstd (N) f32, of a pair (2, N)
//           parts (ceil(N / rows), D) f32: sums over `rows` rows of what they add to a weight's gradient
// Saved     x, weight, rstd; of a pair sum, too
// Backward  g = dy * (1 + weight);  dx = [dh +] rstd * (g - x * rstd^2 * mean(g * x));  dweight += sum_N dy * x * rstd
//           dx is added to what has arrived at x from the residual (`dh`), before the one rounding
//           of a pair: dh = [dsum +] the second norm's dx, rounded;  dx by the first norm from dh, which is the gradient of h, too
// Numerics  f32 inside, one rounding at the store; the second norm of a pair reads the sum as it was stored
// Order     parts: a warp adds every fourth row, then the warps in order; the parts in order (sum_parts): no atomics, bit-equal reruns
// Cost      forward 2 * N * D * sizeof(T) bytes, of a pair 4, backward 3 to 4, of a pair 6: memory bound. A warp per row, which finds
//           the row in its cache the second time
#include "rmsnorm.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t ROWS = 2; // of a block of the forward, a warp each: some hundred rows are to fill a GPU. Of few rows a block has one
constexpr uint32_t WARPS = 4; // of a block of the backward, at most
constexpr uint32_t SHARED_BYTES = 48 * 1024; // what a block gets without asking

template <class T, uint32_t W>
__global__ void __launch_bounds__(ROWS *WARP)
    rmsnorm_forward_kernel(T *y, float *rstd, const T *x, const T *weight, uint32_t n, uint32_t d, float eps) {
    wait_for_earlier_kernels();
    uint32_t row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= n) return;
    size_t offset = size_t(row) * d;
    float scale = row_scale<T, W>(x + offset, d, eps);
    if (lane == 0) rstd[row] = scale;
    norm_row<T, W>(y + offset, x + offset, weight, scale, d);
}

template <class T, uint32_t W>
__global__ void __launch_bounds__(ROWS *WARP)
    rmsnorm_pair_forward_kernel(T *sum, T *y, float *rstd, const T *h, const T *x, const T *weight, const T *next_weight,
                                uint32_t n, uint32_t d, float eps) {
    wait_for_earlier_kernels();
    uint32_t row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= n) return;
    size_t offset = size_t(row) * d;
    float scale = row_scale<T, W>(x + offset, d, eps);
    float squares = add_normed_row<T, W>(sum + offset, nullptr, h + offset, x + offset, weight, scale, d);
    float next_scale = rsqrtf(squares / d + eps);
    if (lane == 0) rstd[row] = scale, rstd[size_t(n) + row] = next_scale;
    norm_row<T, W>(y + offset, sum + offset, next_weight, next_scale, d); // a lane reads what it has stored
}

/// dx of a row, by a warp; what the row adds to the weight's gradient is added to `own` (D), which is the warp's.
template <class T, uint32_t W>
__device__ inline void backward_row(T *dx, float *own, float scale, const T *dh, const T *dy, const T *x, const T *weight, uint32_t d) {
    float values[W], factors[W], slopes[W], arrived[W], total[W];
    float products = 0;
    for (uint32_t i = threadIdx.x % WARP * W; i < d; i += WARP * W) {
        load(values, x + i);
        load(factors, weight + i);
        load(slopes, dy + i);
        for (uint32_t j = 0; j < W; j++) products += slopes[j] * (1 + factors[j]) * values[j];
    }
    float pull = scale * scale * (warp_sum(products) / d);
    for (uint32_t i = threadIdx.x % WARP * W; i < d; i += WARP * W) {
        load(values, x + i);
        load(factors, weight + i);
        load(slopes, dy + i);
        load(total, own + i);
        for (uint32_t j = 0; j < W; j++) {
            total[j] += slopes[j] * values[j] * scale;
            values[j] = scale * (slopes[j] * (1 + factors[j]) - values[j] * pull);
        }
        store(own + i, total);
        if (dh) {
            load(arrived, dh + i);
            for (uint32_t j = 0; j < W; j++) values[j] += arrived[j];
        }
        store(dx + i, values);
    }
}

/// What a block of the backward adds up of one norm: a run of D for each of its warps.
struct Own {
    float *sums;

    /// This warp's run, of zeros.
    template <uint32_t W> __device__ float *begin(uint32_t d) const {
        float *own = sums + threadIdx.x / WARP * d;
        const float zeros[W] = {};
        for (uint32_t i = threadIdx.x % WARP * W; i < d; i += WARP * W) store(own + i, zeros);
        return own;
    }
    /// Writes the sum over the warps; after a barrier. `parts` may be null.
    __device__ void end(float *parts, uint32_t d) const {
        if (!parts) return;
        for (uint32_t i = threadIdx.x; i < d; i += blockDim.x) {
            float sum = 0;
            for (uint32_t warp = 0; warp < blockDim.x / WARP; warp++) sum += sums[warp * d + i];
            parts[size_t(blockIdx.x) * d + i] = sum;
        }
    }
};

/// A block does `rows` rows, a warp every one in as many as there are warps.
template <class T, uint32_t W>
__global__ void __launch_bounds__(WARPS *WARP)
    rmsnorm_backward_kernel(T *dx, float *parts, const float *rstd, const T *dh, const T *dy, const T *x, const T *weight,
                            uint32_t n, uint32_t d, uint32_t rows) {
    wait_for_earlier_kernels();
    DYNAMIC_SHARED(float, sums, SHARED_BYTES); // (warps, D)
    uint32_t begin = blockIdx.x * rows, end = n - begin < rows ? n : begin + rows;
    float *own = Own{sums}.begin<W>(d);
    for (uint32_t row = begin + threadIdx.x / WARP; row < end; row += blockDim.x / WARP) {
        size_t at = size_t(row) * d;
        backward_row<T, W>(dx + at, own, rstd[row], dh ? dh + at : nullptr, dy + at, x + at, weight, d);
    }
    __syncthreads();
    Own{sums}.end(parts, d);
}

template <class T, uint32_t W>
__global__ void __launch_bounds__(WARPS *WARP)
    rmsnorm_pair_backward_kernel(T *dh, T *dx, float *parts, float *next_parts, const float *rstd, const T *dsum, const T *dy,
                                 const T *sum, const T *x, const T *weight, const T *next_weight, uint32_t n, uint32_t d,
                                 uint32_t rows) {
    wait_for_earlier_kernels();
    DYNAMIC_SHARED(float, sums, SHARED_BYTES); // (2, warps, D)
    uint32_t begin = blockIdx.x * rows, end = n - begin < rows ? n : begin + rows;
    Own first{sums}, next{sums + blockDim.x / WARP * d};
    float *own = first.begin<W>(d), *next_own = next.begin<W>(d);
    for (uint32_t row = begin + threadIdx.x / WARP; row < end; row += blockDim.x / WARP) {
        size_t at = size_t(row) * d;
        backward_row<T, W>(dh + at, next_own, rstd[size_t(n) + row], dsum ? dsum + at : nullptr, dy + at, sum + at, next_weight, d);
        backward_row<T, W>(dx + at, own, rstd[row], nullptr, dh + at, x + at, weight, d);
    }
    __syncthreads();
    first.end(parts, d);
    next.end(next_parts, d);
}

/// Warps of a block of the backward, whose sums fit; 0 when there are none.
uint32_t backward_warps(uint32_t norms, uint32_t d) {
    uint32_t warps = WARPS;
    while (uint64_t(warps) * norms * d * sizeof(float) > SHARED_BYTES) warps /= 2;
    return warps;
}

engine_status too_wide(uint32_t norms, uint32_t d) {
    return fail(ENGINE_BAD_ARGUMENT, "rows of %u elements: at most %zu", d, SHARED_BYTES / sizeof(float) / norms);
}

/// Of a forward.
uint32_t rows_of_block(uint32_t n) { return n <= ENGINE_FEW_ROWS ? 1 : ROWS; }

} // namespace

engine_status rmsnorm_forward(void *y, void *rstd, const void *x, const void *weight, uint32_t n, uint32_t d, double eps,
                              engine_dtype dtype, engine_stream stream) {
    if (n == 0 || d == 0) return ENGINE_OK;
    uint32_t rows = rows_of_block(n);
    return with_access(dtype, d, {y, x, weight}, [&](auto access) {
        using T = typename decltype(access)::Type;
        constexpr uint32_t W = decltype(access)::WIDTH;
        return LAUNCH((rmsnorm_forward_kernel<T, W>), ceil_div(n, rows), rows * WARP, 0, stream, static_cast<T *>(y),
                      static_cast<float *>(rstd), static_cast<const T *>(x), static_cast<const T *>(weight), n, d,
                      static_cast<float>(eps));
    });
}

engine_status rmsnorm_pair_forward(void *sum, void *y, void *rstd, const void *h, const void *x, const void *weight,
                                   const void *next_weight, uint32_t n, uint32_t d, double eps, engine_dtype dtype,
                                   engine_stream stream) {
    if (n == 0 || d == 0) return ENGINE_OK;
    uint32_t rows = rows_of_block(n);
    return with_access(dtype, d, {sum, y, h, x, weight, next_weight}, [&](auto access) {
        using T = typename decltype(access)::Type;
        constexpr uint32_t W = decltype(access)::WIDTH;
        return LAUNCH((rmsnorm_pair_forward_kernel<T, W>), ceil_div(n, rows), rows * WARP, 0, stream, static_cast<T *>(sum),
                      static_cast<T *>(y), static_cast<float *>(rstd), static_cast<const T *>(h), static_cast<const T *>(x),
                      static_cast<const T *>(weight), static_cast<const T *>(next_weight), n, d, static_cast<float>(eps));
    });
}

engine_status rmsnorm_backward(void *dx, void *parts, const void *rstd, const void *dh, const void *dy, const void *x,
                               const void *weight, uint32_t n, uint32_t d, uint32_t rows, engine_dtype dtype,
                               engine_stream stream) {
    if (n == 0 || d == 0) return ENGINE_OK;
    uint32_t warps = backward_warps(1, d);
    if (warps == 0) return too_wide(1, d);
    return with_access(dtype, d, {dx, dh, dy, x, weight}, [&](auto access) {
        using T = typename decltype(access)::Type;
        constexpr uint32_t W = decltype(access)::WIDTH;
        return LAUNCH((rmsnorm_backward_kernel<T, W>), ceil_div(n, rows), warps * WARP, warps * d * sizeof(float), stream,
                      static_cast<T *>(dx), static_cast<float *>(parts), static_cast<const float *>(rstd),
                      static_cast<const T *>(dh), static_cast<const T *>(dy), static_cast<const T *>(x),
                      static_cast<const T *>(weight), n, d, rows);
    });
}

engine_status rmsnorm_pair_backward(void *dh, void *dx, void *parts, void *next_parts, const void *rstd, const void *dsum,
                                    const void *dy, const void *sum, const void *x, const void *weight,
                                    const void *next_weight, uint32_t n, uint32_t d, uint32_t rows, engine_dtype dtype,
                                    engine_stream stream) {
    if (n == 0 || d == 0) return ENGINE_OK;
    uint32_t warps = backward_warps(2, d);
    if (warps == 0) return too_wide(2, d);
    return with_access(dtype, d, {dh, dx, dsum, dy, sum, x, weight, next_weight}, [&](auto access) {
        using T = typename decltype(access)::Type;
        constexpr uint32_t W = decltype(access)::WIDTH;
        return LAUNCH((rmsnorm_pair_backward_kernel<T, W>), ceil_div(n, rows), warps * WARP, 2 * warps * d * sizeof(float),
                      stream, static_cast<T *>(dh), static_cast<T *>(dx), static_cast<float *>(parts),
                      static_cast<float *>(next_parts), static_cast<const float *>(rstd), static_cast<const T *>(dsum),
                      static_cast<const T *>(dy), static_cast<const T *>(sum), static_cast<const T *>(x),
                      static_cast<const T *>(weight), static_cast<const T *>(next_weight), n, d, rows);
    });
}

} // namespace ENGINE_NAMESPACE
