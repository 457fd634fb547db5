// adamw: decoupled weight decay Adam (torch.optim.AdamW), every parameter in one launch
//
//     g' = clip_factor * g;  m = b1 m + (1 - b1) g';  v = b2 v + (1 - b2) g'^2
//     p = p (1 - lr decay) - rate * m / (sqrt(v) * root + eps)
//
// Shapes    m, v, gradients (n) f32     starts (G + 1)     decays (G) f32
//           parameters (n) f32, or their lower halves (n) u16 beside a copy (n) bf16
// Numerics  f32, with the step's constants computed in f64 by the host and rounded once
// Order     elementwise
// Cost      28 bytes per parameter, whole or in halves: memory bound. A thread finds its group by bisection
#include "halves.cuh"

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

/// The weights in f32.
struct Whole {
    float *parameters;

    template <uint32_t W> __device__ void load_some(float (&p)[W], uint64_t i, const engine_adamw_step &) const {
        load(p, parameters + i);
    }

    template <uint32_t W> __device__ void store_some(const float (&p)[W], uint64_t i, const engine_adamw_step &) const {
        store(parameters + i, p);
    }
};

/// The weights in halves.
struct Split {
    bf16 *copy;
    uint16_t *lower;

    template <uint32_t W> __device__ void load_some(float (&p)[W], uint64_t i, const engine_adamw_step &numbers) const {
        Halves<W> halves(copy + i, lower + i);
        for (uint32_t j = 0; j < W; j++) p[j] = halves.join(j, i + j, static_cast<uint32_t>(numbers.split_by));
    }

    template <uint32_t W> __device__ void store_some(const float (&p)[W], uint64_t i, const engine_adamw_step &numbers) const {
        Halves<W> halves;
        for (uint32_t j = 0; j < W; j++) halves.split(p[j], j, i + j, static_cast<uint32_t>(numbers.step));
        halves.store(copy + i, lower + i);
    }
};

template <class Weights, uint32_t W>
__global__ void __launch_bounds__(THREADS)
    adamw_kernel(Weights weights, float *m, float *v, const float *gradients, const engine_step_results *results,
                 const engine_adamw_step *numbers, const uint64_t *starts, const float *decays, uint32_t groups, uint64_t n) {
    wait_for_earlier_kernels();
    uint64_t i = (uint64_t(blockIdx.x) * THREADS + threadIdx.x) * W;
    if (i >= n || isnan(results->clip_factor)) return;
    Step step(*numbers, results->clip_factor);
    float p[W], first[W], second[W], g[W];
    weights.load_some(p, i, *numbers);
    load(first, m + i);
    load(second, v + i);
    load(g, gradients + i);
    uint32_t group = interval_of(starts, groups, i);
    for (uint32_t j = 0; j < W; j++) {
        while (i + j >= starts[group + 1]) group++;
        float slope = g[j] * step.factor;
        first[j] = step.beta1 * first[j] + step.one_minus_beta1 * slope;
        second[j] = step.beta2 * second[j] + step.one_minus_beta2 * slope * slope;
        float decay = decays[group], keep = 1 - step.decay * decay;
        p[j] = p[j] * keep - step.rate * first[j] / (sqrtf(second[j]) * step.root + step.eps);
    }
    weights.store_some(p, i, *numbers);
    store(m + i, first);
    store(v + i, second);
}

} // namespace

engine_status adamw(void *parameters, void *m, void *v, void *copy, const void *gradients, const engine_step_results *results,
                    const engine_adamw_step *step, const uint64_t *starts, const float *decays, uint32_t groups, uint64_t n,
                    engine_dtype dtype, engine_stream stream) {
    if (n == 0) return ENGINE_OK;
    if (engine_status status = only_f32(dtype); status != ENGINE_OK) return status;
    return with_f32_access(n, {parameters, m, v, gradients, copy}, [&](auto access) {
        constexpr uint32_t W = decltype(access)::WIDTH;
        auto update = [&](auto weights) {
            return LAUNCH((adamw_kernel<decltype(weights), W>), ceil_div(n, THREADS * W), THREADS, 0, stream, weights,
                          static_cast<float *>(m), static_cast<float *>(v), static_cast<const float *>(gradients), results, step,
                          starts, decays, groups, n);
        };
        if (copy) return update(Split{static_cast<bf16 *>(copy), static_cast<uint16_t *>(parameters)});
        return update(Whole{static_cast<float *>(parameters)});
    });
}

} // namespace ENGINE_NAMESPACE
