// adamw: decoupled weight decay Adam (torch.optim.AdamW), every parameter in one launch
//
//     g' = clip_factor * g;  m = b1 m + (1 - b1) g';  v = b2 v + (1 - b2) g'^2
//     p = p (1 - lr decay) - rate * m / (sqrt(v) * root + eps);  copy = bf16(p), rounded stochastically
//
// Shapes    parameters, m, v, gradients (n) f32     copy (n) bf16 or null     starts (G + 1)     decays (G) f32
// Numerics  f32, with the step's constants computed in f64 by the host and rounded once
// Order     elementwise
// Cost      28 bytes per parameter and 2 for the copy: memory bound. A thread finds its group by bisection
#include "vector.cuh"

namespace ENGINE_NAMESPACE {
namespace {

constexpr uint32_t THREADS = 256;

/// The step's numbers as the arithmetic has them.
struct Step {
    float beta1, beta2, one_minus_beta1, one_minus_beta2, rate, root, eps, decay, factor;

    __device__ Step(const engine_adamw_step &step, double clip_factor)
        : beta1(step.beta1), beta2(step.beta2), one_minus_beta1(step.one_minus_beta1),
          one_minus_beta2(step.one_minus_beta2), rate(step.rate), root(step.root), eps(step.eps),
          decay(step.learning_rate * step.weight_decay), factor(clip_factor) {}
};

/// The group that holds element i.
__device__ inline uint32_t group_of(const uint64_t *starts, uint32_t groups, uint64_t i) {
    uint32_t low = 0, high = groups;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        (starts[middle] <= i ? low : high) = middle;
    }
    return low;
}

template <uint32_t W>
__global__ void __launch_bounds__(THREADS)
    adamw_kernel(float *parameters, float *m, float *v, bf16 *copy, const float *gradients, const engine_step_results *results,
                 const engine_adamw_step *numbers, const uint64_t *starts, const float *decays, uint32_t groups, uint64_t n) {
    uint64_t i = (uint64_t(blockIdx.x) * THREADS + threadIdx.x) * W;
    if (i >= n || isnan(results->clip_factor)) return;
    Step step(*numbers, results->clip_factor);
    float p[W], first[W], second[W], g[W];
    load(p, parameters + i);
    load(first, m + i);
    load(second, v + i);
    load(g, gradients + i);
    uint32_t group = group_of(starts, groups, i);
    for (uint32_t j = 0; j < W; j++) {
        while (i + j >= starts[group + 1]) group++;
        float slope = g[j] * step.factor;
        first[j] = step.beta1 * first[j] + step.one_minus_beta1 * slope;
        second[j] = step.beta2 * second[j] + step.one_minus_beta2 * slope * slope;
        float decay = decays[group], keep = 1 - step.decay * decay;
        p[j] = p[j] * keep - step.rate * first[j] / (sqrtf(second[j]) * step.root + step.eps);
    }
    store(parameters + i, p);
    store(m + i, first);
    store(v + i, second);
    if (copy) store_stochastic(copy + i, p, i, static_cast<uint32_t>(numbers->step));
}

} // namespace

engine_status adamw(void *parameters, void *m, void *v, void *copy, const void *gradients, const engine_step_results *results,
                    const engine_adamw_step *step, const uint64_t *starts, const float *decays, uint32_t groups, uint64_t n,
                    engine_dtype dtype, engine_stream stream) {
    if (n == 0) return ENGINE_OK;
    if (engine_status status = only_f32(dtype); status != ENGINE_OK) return status;
    return with_access(ENGINE_F32, n, {parameters, m, v, gradients, copy}, [&](auto access) {
        constexpr uint32_t W = decltype(access)::WIDTH;
        return LAUNCH((adamw_kernel<W>), ceil_div(n, THREADS * W), THREADS, 0, stream,
                      static_cast<float *>(parameters), static_cast<float *>(m), static_cast<float *>(v),
                      static_cast<bf16 *>(copy), static_cast<const float *>(gradients), results, step, starts, decays, groups, n);
    });
}

} // namespace ENGINE_NAMESPACE
