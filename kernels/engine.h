// The kernel table: every launcher of kernels/*.cu, declared once for CUDA, for the emulator and for Rust (bindgen).
//
// Shapes are in round brackets and use one alphabet: N tokens of a batch, D hidden, F intermediate, V vocab, H heads,
// K kv heads, Dh head_dim, S slots of keys, R rows of a chunk. Tensors are row-major. T is the element type that
// `dtype` names; everything else is spelled out. Arguments come in the order outputs, saved, inputs, sizes, scalars,
// dtype, stream. Gradients of parameters are added to (`+=`), everything else is written (`=`).
//
// All pointers are device memory. A launcher queues its kernels on `stream` and does not wait; it owns grid, block and
// shared memory. It returns ENGINE_OK, or a code whose sentence `last_error` has. Sizes of 0 are fine: nothing happens.
// Pointers that are 16-byte aligned and rows of a whole number of 16 bytes take the fast path; others are slower.
#ifndef ENGINE_H
#define ENGINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// Element type of activations and compute weights.
typedef enum engine_dtype {
    ENGINE_F32 = 0,
    ENGINE_BF16 = 1,
} engine_dtype;

/// How a launch went. From ENGINE_DIVERGENT_BARRIER on only the emulator tells.
typedef enum engine_status {
    ENGINE_OK = 0,
    ENGINE_BAD_ARGUMENT = 1,
    /// The driver refused the launch.
    ENGINE_LAUNCH_FAILED = 2,
    /// Threads wait at different barriers, or for threads that never arrive.
    ENGINE_DIVERGENT_BARRIER = 3,
    /// Two threads touch the same memory, one of them writes, and nothing orders them.
    ENGINE_RACE = 4,
    /// An access beside an array, or one that is not aligned.
    ENGINE_OUT_OF_BOUNDS = 5,
    /// A thread ended with an asynchronous copy that it never waited for.
    ENGINE_MISSING_WAIT = 6,
} engine_status;

/// A cudaStream_t; ignored by the emulator, which runs everything at once.
typedef void *engine_stream;

/// What one AdamW update needs beside the tensors. In device memory, so that a captured graph can be replayed.
typedef struct engine_adamw_step {
    float learning_rate;
    float beta1;
    float beta2;
    float eps;
    /// learning_rate / (1 - beta1^t) for update t, from 1
    float rate;
    /// 1 / sqrt(1 - beta2^t)
    float root;
} engine_adamw_step;

/// The launchers of one build.
typedef struct engine_kernels {
    /// `cuda` or `emulated`.
    const char *device;

    /// What went wrong in the calling thread's last launch that failed.
    const char *(*last_error)(void);

    /// `y = [h +] x * rstd * (1 + weight),  rstd = 1 / sqrt(mean(x^2) + eps)`.  kernels/rmsnorm.cu
    ///
    /// y, h, x (N, D) T; weight (D) T; rstd (N) f32. `h` may be null: no residual is added.
    engine_status (*rmsnorm_forward)(void *y, float *rstd, const void *h, const void *x, const void *weight, uint32_t n,
                                     uint32_t d, float eps, engine_dtype dtype, engine_stream stream);

    /// `dx = rstd * (g - x * rstd^2 * mean(g * x)), g = dy * (1 + weight);  dweight += sum_N dy * x * rstd`
    ///
    /// dx, dy, x (N, D) T; weight (D) T; dweight (D) f32; rstd (N) f32; scratch (ceil(N / 64), D) f32. The gradient of
    /// a residual is dy itself.
    engine_status (*rmsnorm_backward)(void *dx, float *dweight, float *scratch, const float *rstd, const void *dy,
                                      const void *x, const void *weight, uint32_t n, uint32_t d, engine_dtype dtype,
                                      engine_stream stream);

    /// `y = gelu_tanh(gate) * up`.  kernels/geglu.cu
    ///
    /// x (N, 2F) T, rows of gate then up; y (N, F) T.
    engine_status (*geglu_forward)(void *y, const void *x, uint32_t n, uint32_t f, engine_dtype dtype,
                                   engine_stream stream);

    /// `dgate = dy * up * gelu'(gate);  dup = dy * gelu(gate)`
    ///
    /// dx, x (N, 2F) T; dy (N, F) T.
    engine_status (*geglu_backward)(void *dx, const void *dy, const void *x, uint32_t n, uint32_t f, engine_dtype dtype,
                                    engine_stream stream);

    /// `h = scale * weight[ids]`.  kernels/embedding.cu
    ///
    /// h (N, D) T; weight (V, D) T; ids (N), each below V.
    engine_status (*embedding_forward)(void *h, const void *weight, const uint32_t *ids, uint32_t n, uint32_t d,
                                       float scale, engine_dtype dtype, engine_stream stream);

    /// `dweight[id] += scale * sum of dh over the rows that have this id`, rows in order
    ///
    /// dweight (V, D) f32; dh (N, D) T; ids (N). `rows` (N) are the rows of the batch sorted by id, rows of one id in
    /// ascending order; `starts` (U + 1) is where each of the U distinct ids begins in `rows`, and N.
    engine_status (*embedding_backward)(float *dweight, const void *dh, const uint32_t *ids, const uint32_t *rows,
                                        const uint32_t *starts, uint32_t u, uint32_t d, float scale, engine_dtype dtype,
                                        engine_stream stream);

    /// `norm = sqrt(sum g^2);  factor = min(1, max_norm / (norm + 1e-6))`, 1 when max_norm is 0.  kernels/clip.cu
    ///
    /// norm, factor: one f32 each; gradients (n) f32; scratch (ceil(n / 16384)) f32.
    engine_status (*clip_factor)(float *norm, float *factor, float *scratch, const float *gradients, uint64_t n,
                                 float max_norm, engine_stream stream);

    /// One AdamW update of every parameter; gradients become 0.  kernels/adamw.cu
    ///
    /// parameters, m, v, gradients (n) f32; copy (n) bf16 or null; factor: one f32, on the gradients; step: one struct.
    /// Group g of the G groups covers `starts[g] .. starts[g + 1]` and decays by `learning_rate * decays[g]`; starts
    /// (G + 1) begins with 0 and ends with n; decays (G) f32.
    engine_status (*adamw)(float *parameters, float *m, float *v, float *gradients, void *copy, const float *factor,
                           const engine_adamw_step *step, const uint64_t *starts, const float *decays, uint32_t groups,
                           uint64_t n, engine_stream stream);

    /// Loss of a chunk of logits, which become their gradient.  kernels/cross_entropy.cu
    ///
    /// logits (R, V) T; sums (4) f64, added to: w * loss, w * entropy in nats, w where the target has the largest logit
    /// (the first of equals), w. Targets of row r are `starts[r] .. starts[r + 1]`; starts (R + 1); ids (M), distinct
    /// within a row; weights (M) f32; target_logits (M) f32 and row_sums (R, 4) f32 are scratch. Gradients are those of
    /// `*scale` * sum of w * loss; a null `scale` leaves the logits alone.
    engine_status (*cross_entropy)(void *logits, double *sums, float *target_logits, float *row_sums,
                                   const uint32_t *starts, const uint32_t *ids, const float *weights,
                                   const float *scale, uint32_t r, uint32_t v, engine_dtype dtype, engine_stream stream);
} engine_kernels;

/// The kernels as nvcc compiled them.
const engine_kernels *engine_kernels_cuda(void);

/// The kernels as the host's C++ compiler did.
const engine_kernels *engine_kernels_emulated(void);

/// Memory of the emulated device: NaN inside, guard bands around. Null when there is none. It belongs to the calling
/// OS thread, as do the launches that use it.
void *engine_emulator_allocate(size_t bytes);

/// Frees a buffer of the calling thread; ENGINE_OUT_OF_BOUNDS when its guard bands are damaged.
engine_status engine_emulator_free(void *buffer);

/// Chooses the order in which the calling thread's next launches run blocks and threads.
void engine_emulator_seed(uint64_t seed);

#ifdef __cplusplus
}
#endif

#endif
