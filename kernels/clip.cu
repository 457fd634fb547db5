// clip: norm = sqrt(sum g^2);  factor = min(1, max_norm / (norm + 1e-6))      (torch.nn.utils.clip_grad_norm_)
//
// Shapes    gradients (n) f32     results: one struct     squares (ceil(n / ENGINE_CLIP_RUN)) f32; or the sums are there already
// Numerics  f32 within a run of gradients, f64 over the runs
// Order     both sums in an order that depends on n alone: no atomics, bit-equal reruns
// Cost      4 bytes per gradient: memory bound, unless whoever wrote the gradients left sums. The factor stays on the device,
//           where AdamW reads it
#include "reduce.cuh"
#include "vector.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t THREADS = 256;
constexpr uint32_t FACTOR_THREADS = 1024; // one block: there are some ten thousand sums
constexpr uint32_t RUN = ENGINE_CLIP_RUN; // gradients of a block

template <uint32_t W>
__global__ void __launch_bounds__(THREADS) clip_partial_kernel(float *sums, const float *gradients, uint64_t n) {
    wait_for_earlier_kernels();
    uint64_t first = uint64_t(blockIdx.x) * RUN, end = first + RUN < n ? first + RUN : n;
    float values[W];
    float squares = 0;
    for (uint64_t i = first + threadIdx.x * W; i < end; i += THREADS * W) {
        load(values, gradients + i);
        for (uint32_t j = 0; j < W; j++) squares += values[j] * values[j];
    }
    squares = block_sum<THREADS>(squares);
    if (threadIdx.x == 0) sums[blockIdx.x] = squares;
}

__global__ void __launch_bounds__(FACTOR_THREADS)
    clip_factor_kernel(engine_step_results *results, const float *sums, uint64_t count, double max_norm) {
    wait_for_earlier_kernels();
    double squares = 0;
#pragma unroll 4
    for (uint64_t i = threadIdx.x; i < count; i += FACTOR_THREADS) squares += sums[i];
    squares = block_sum<FACTOR_THREADS>(squares);
    if (threadIdx.x != 0) return;
    double length = sqrt(squares), limit = max_norm / (length + 1e-6);
    results->grad_norm = length;
    results->clip_factor = max_norm > 0 && limit < 1 ? limit : 1;
    if (!isfinite(length) || !isfinite(results->loss)) results->clip_factor = NAN;
}

} // namespace

engine_status clip_factor(engine_step_results *results, void *squares, const void *gradients, uint64_t n, double max_norm,
                          engine_dtype dtype, engine_stream stream) {
    auto *sums = static_cast<float *>(squares);
    uint64_t count = gradients ? ceil_div(n, RUN) : n;
    engine_status status = only_f32(dtype);
    if (status != ENGINE_OK) return status;
    if (gradients && count > 0)
        status = with_f32_access(n, {gradients}, [&](auto access) {
            return LAUNCH((clip_partial_kernel<decltype(access)::WIDTH>), static_cast<uint32_t>(count), THREADS, 0, stream, sums,
                          static_cast<const float *>(gradients), n);
        });
    if (status != ENGINE_OK) return status;
    return LAUNCH(clip_factor_kernel, 1, FACTOR_THREADS, 0, stream, results, sums, count, max_norm);
}

} // namespace ENGINE_NAMESPACE
