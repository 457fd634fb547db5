// clip: norm = sqrt(sum g^2);  factor = min(1, max_norm / (norm + 1e-6))      (torch.nn.utils.clip_grad_norm_)
//
// Shapes    gradients (n) f32     results: one struct     scratch (ceil(n / ENGINE_CLIP_RUN)) f32
// Numerics  f32 within a run of gradients, f64 over the runs
// Order     both sums in an order that depends on n alone: no atomics, bit-equal reruns
// Cost      4 bytes per gradient: memory bound. The factor stays on the device, where AdamW reads it
#include "reduce.cuh"
#include "vector.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t THREADS = 256;
constexpr uint32_t RUN = ENGINE_CLIP_RUN; // gradients of a block

template <uint32_t W>
__global__ void __launch_bounds__(THREADS) clip_partial_kernel(float *scratch, const float *gradients, uint64_t n) {
    uint64_t first = uint64_t(blockIdx.x) * RUN, end = first + RUN < n ? first + RUN : n;
    float values[W];
    float squares = 0;
    for (uint64_t i = first + threadIdx.x * W; i < end; i += THREADS * W) {
        load(values, gradients + i);
        for (uint32_t j = 0; j < W; j++) squares += values[j] * values[j];
    }
    squares = block_sum<THREADS>(squares);
    if (threadIdx.x == 0) scratch[blockIdx.x] = squares;
}

__global__ void __launch_bounds__(THREADS)
    clip_factor_kernel(engine_step_results *results, const float *scratch, uint32_t runs, double max_norm) {
    double squares = 0;
    for (uint32_t i = threadIdx.x; i < runs; i += THREADS) squares += scratch[i];
    squares = block_sum<THREADS>(squares);
    if (threadIdx.x != 0) return;
    double length = sqrt(squares), limit = max_norm / (length + 1e-6);
    results->grad_norm = length;
    results->clip_factor = max_norm > 0 && limit < 1 ? limit : 1;
    if (!isfinite(length) || !isfinite(results->loss)) results->clip_factor = NAN;
}

} // namespace

engine_status clip_factor(engine_step_results *results, void *scratch, const void *gradients, uint64_t n, double max_norm,
                          engine_dtype dtype, engine_stream stream) {
    uint32_t runs = ceil_div(n, RUN);
    auto *sums = static_cast<float *>(scratch);
    engine_status status = only_f32(dtype);
    if (status != ENGINE_OK) return status;
    if (runs > 0)
        status = with_access(ENGINE_F32, n, {gradients}, [&](auto access) {
            return LAUNCH((clip_partial_kernel<decltype(access)::WIDTH>), runs, THREADS, 0, stream, sums,
                          static_cast<const float *>(gradients), n);
        });
    if (status != ENGINE_OK) return status;
    return LAUNCH(clip_factor_kernel, 1, THREADS, 0, stream, results, sums, runs, max_norm);
}

} // namespace ENGINE_NAMESPACE
