// rmsnorm: y = [h +] x * rstd * (1 + weight),  rstd = 1 / sqrt(mean(x^2) + eps)
//
// Shapes    y, h, x, dy, dh, dx (N, D) T     weight (D) T     dweight (D) f32     rstd (N) f32     scratch (ceil(N / 64), D) f32
// Saved     x, weight, rstd
// Backward  g = dy * (1 + weight);  dx = [dh +] rstd * (g - x * rstd^2 * mean(g * x));  dweight += sum_N dy * x * rstd
//           dx is added to what has arrived at x from the residual (`dh`), before the one rounding; that of h is dy itself
// Numerics  f32 inside, one rounding at the store
// Order     dweight: a sum per 64 rows, in order, and then over these sums, in order: no atomics, bit-equal reruns
// Cost      forward 2 (3 with h) * N * D * sizeof(T) bytes, backward 5: memory bound. A warp per row, which finds the row
//           in its cache the second time
#include "reduce.cuh"
#include "vector.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t ROWS = 4; // of a block, a warp each
constexpr uint32_t COLUMNS = 128; // of a block of the weight's gradient, a thread each
constexpr uint32_t CHUNK = ENGINE_NORM_CHUNK; // rows of one sum of the weight's gradient

template <class T, uint32_t W>
__global__ void __launch_bounds__(ROWS *WARP)
    rmsnorm_forward_kernel(T *y, float *rstd, const T *h, const T *x, const T *weight, uint32_t n, uint32_t d, float eps) {
    uint32_t row = blockIdx.x * ROWS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= n) return;
    size_t offset = size_t(row) * d;
    float values[W], factors[W], residual[W];
    float squares = 0;
    for (uint32_t i = lane * W; i < d; i += WARP * W) {
        load(values, x + offset + i);
        for (uint32_t j = 0; j < W; j++) squares += values[j] * values[j];
    }
    float scale = rsqrtf(warp_sum(squares) / d + eps);
    if (lane == 0) rstd[row] = scale;
    for (uint32_t i = lane * W; i < d; i += WARP * W) {
        load(values, x + offset + i);
        load(factors, weight + i);
        for (uint32_t j = 0; j < W; j++) values[j] *= scale * (1 + factors[j]);
        if (h) {
            load(residual, h + offset + i);
            for (uint32_t j = 0; j < W; j++) values[j] += residual[j];
        }
        store(y + offset + i, values);
    }
}

template <class T, uint32_t W>
__global__ void __launch_bounds__(ROWS *WARP)
    rmsnorm_backward_kernel(T *dx, const float *rstd, const T *dh, const T *dy, const T *x, const T *weight, uint32_t n,
                            uint32_t d) {
    uint32_t row = blockIdx.x * ROWS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= n) return;
    size_t offset = size_t(row) * d;
    float values[W], factors[W], slopes[W], arrived[W];
    float products = 0;
    for (uint32_t i = lane * W; i < d; i += WARP * W) {
        load(values, x + offset + i);
        load(factors, weight + i);
        load(slopes, dy + offset + i);
        for (uint32_t j = 0; j < W; j++) products += slopes[j] * (1 + factors[j]) * values[j];
    }
    float scale = rstd[row];
    float pull = scale * scale * (warp_sum(products) / d);
    for (uint32_t i = lane * W; i < d; i += WARP * W) {
        load(values, x + offset + i);
        load(factors, weight + i);
        load(slopes, dy + offset + i);
        for (uint32_t j = 0; j < W; j++) values[j] = scale * (slopes[j] * (1 + factors[j]) - values[j] * pull);
        if (dh) {
            load(arrived, dh + offset + i);
            for (uint32_t j = 0; j < W; j++) values[j] += arrived[j];
        }
        store(dx + offset + i, values);
    }
}

/// scratch (ceil(N / CHUNK), D) = sums of dy * x * rstd over CHUNK rows.
template <class T>
__global__ void __launch_bounds__(COLUMNS)
    rmsnorm_weight_partial_kernel(float *scratch, const float *rstd, const T *dy, const T *x, uint32_t n, uint32_t d) {
    uint32_t column = blockIdx.y * COLUMNS + threadIdx.x;
    if (column >= d) return;
    uint32_t first = blockIdx.x * CHUNK, end = first + CHUNK < n ? first + CHUNK : n;
    float sum = 0;
    for (uint32_t row = first; row < end; row++) {
        size_t at = size_t(row) * d + column;
        sum += to_float(dy[at]) * to_float(x[at]) * rstd[row];
    }
    scratch[size_t(blockIdx.x) * d + column] = sum;
}

/// dweight (D) += sum of scratch (chunks, D).
__global__ void __launch_bounds__(COLUMNS)
    rmsnorm_weight_kernel(float *dweight, const float *scratch, uint32_t chunks, uint32_t d) {
    uint32_t column = blockIdx.x * COLUMNS + threadIdx.x;
    if (column >= d) return;
    float sum = 0;
    for (uint32_t chunk = 0; chunk < chunks; chunk++) sum += scratch[size_t(chunk) * d + column];
    dweight[column] += sum;
}

} // namespace

engine_status rmsnorm_forward(void *y, void *rstd, const void *h, const void *x, const void *weight, uint32_t n,
                              uint32_t d, double eps, engine_dtype dtype, engine_stream stream) {
    if (n == 0 || d == 0) return ENGINE_OK;
    return with_access(dtype, d, {y, h, x, weight}, [&](auto access) {
        using T = typename decltype(access)::Type;
        constexpr uint32_t W = decltype(access)::WIDTH;
        return LAUNCH((rmsnorm_forward_kernel<T, W>), ceil_div(n, ROWS), ROWS * WARP, 0, stream, static_cast<T *>(y),
                      static_cast<float *>(rstd), static_cast<const T *>(h), static_cast<const T *>(x),
                      static_cast<const T *>(weight), n, d, static_cast<float>(eps));
    });
}

engine_status rmsnorm_backward(void *dx, void *dweight, void *scratch, const void *rstd, const void *dh, const void *dy,
                               const void *x, const void *weight, uint32_t n, uint32_t d, engine_dtype dtype, engine_stream stream) {
    if (n == 0 || d == 0) return ENGINE_OK;
    uint32_t chunks = ceil_div(n, CHUNK), strips = ceil_div(d, COLUMNS);
    auto *scales = static_cast<const float *>(rstd);
    auto *sums = static_cast<float *>(scratch);
    return with_access(dtype, d, {dx, dh, dy, x, weight}, [&](auto access) {
        using T = typename decltype(access)::Type;
        constexpr uint32_t W = decltype(access)::WIDTH;
        auto *slopes = static_cast<const T *>(dy), *values = static_cast<const T *>(x);
        engine_status status = LAUNCH((rmsnorm_backward_kernel<T, W>), ceil_div(n, ROWS), ROWS * WARP, 0, stream,
                                      static_cast<T *>(dx), scales, static_cast<const T *>(dh), slopes, values,
                                      static_cast<const T *>(weight), n, d);
        if (dweight == nullptr) return status;
        if (status == ENGINE_OK)
            status = LAUNCH((rmsnorm_weight_partial_kernel<T>), dim3(chunks, strips), COLUMNS, 0, stream, sums, scales,
                            slopes, values, n, d);
        if (status == ENGINE_OK)
            status = LAUNCH(rmsnorm_weight_kernel, strips, COLUMNS, 0, stream, static_cast<float *>(dweight), sums, chunks, d);
        return status;
    });
}

} // namespace ENGINE_NAMESPACE
