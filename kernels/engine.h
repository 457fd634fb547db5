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

/// Slots of a tile of keys, and rows of a tile of queries, in the lists of `engine_attention`.
#define ENGINE_ATTENTION_TILE 64

/// H query heads on K kv heads of Dh elements; H is a multiple of K, and query head h reads kv head h / (H / K).
typedef struct engine_heads {
    uint32_t query;
    uint32_t kv;
    uint32_t dim;
} engine_heads;

/// What attention does, beside activations: which keys each query sees, and the tiles that this leaves to compute. The
/// struct is read by the launcher; the arrays are device memory, made once per batch.
///
/// With `i = slots[row]`, row `row` sees the key in slot j when
/// `j <= i && i < end[j] && positions[row] - key_positions[j] < window`. slots ascend. A row sees at least one key.
typedef struct engine_attention {
    /// (N)
    const uint32_t *slots;
    /// (N)
    const uint32_t *positions;
    /// (S); 0 for a slot that holds nothing: nobody sees it
    const uint32_t *end;
    /// (S)
    const uint32_t *key_positions;
    /// Key tiles that tile t of queries looks at are `key_tiles[key_starts[t] .. key_starts[t + 1]]`, ascending; a tile of
    /// queries is ENGINE_ATTENTION_TILE rows (`attention_decode`: one row). What is not in the list nobody in it sees.
    const uint32_t *key_starts;
    const uint32_t *key_tiles;
    /// The same the other way round, for the backward, whose rows are slots (N = S): tiles of queries that see key tile t.
    const uint32_t *query_starts;
    const uint32_t *query_tiles;
    /// UINT32_MAX: no limit
    uint32_t window;
    /// N
    uint32_t n;
    /// S
    uint32_t s;
    engine_heads heads;
    /// On the scores, before the softmax.
    float scale;
    engine_dtype dtype;
} engine_attention;

/// What `rope_forward` and `rope_backward` read beside activations: a struct for the launcher, arrays of the device.
typedef struct engine_rope {
    /// (Dh) T
    const void *q_norm;
    /// (Dh) T
    const void *k_norm;
    /// (P, Dh/2) f32 each: of the angles `p / theta^(2i / Dh)` of position p
    const float *cos;
    const float *sin;
    /// (N), each below P
    const uint32_t *positions;
    /// (N): row of k and v that row n is written to; null: n itself
    const uint32_t *slots;
    uint32_t n;
    float eps;
    engine_heads heads;
} engine_rope;

/// How `sample` draws: temperature, then top-k, then top-p, then a draw from what is left.
typedef struct engine_sampling {
    float temperature;
    /// 0: no limit
    uint32_t top_k;
    /// 1: no limit
    float top_p;
} engine_sampling;

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

    /// `dx = [dh +] rstd * (g - x * rstd^2 * mean(g * x)), g = dy * (1 + weight);  dweight += sum_N dy * x * rstd`
    ///
    /// dx, dh, dy, x (N, D) T; weight (D) T; dweight (D) f32; rstd (N) f32; scratch (ceil(N / 64), D) f32. `dh` is what
    /// has arrived at x from elsewhere, or null; it may be dx itself. The gradient of a forward's `h` is dy itself.
    engine_status (*rmsnorm_backward)(void *dx, float *dweight, float *scratch, const float *rstd, const void *dh,
                                      const void *dy, const void *x, const void *weight, uint32_t n, uint32_t d,
                                      engine_dtype dtype, engine_stream stream);

    /// q and k normed per head and rotated by their positions, v copied.  kernels/rope.cu
    ///
    /// `u = rmsnorm(x, norm);  y[i] = u[i] cos - u[i + Dh/2] sin;  y[i + Dh/2] = u[i + Dh/2] cos + u[i] sin`.
    /// q (N, H, Dh) T; k, v (S, K, Dh) T, of which the rows in `slots` are written; qkv (N, (H + 2K) * Dh) T.
    engine_status (*rope_forward)(void *q, void *k, void *v, const void *qkv, const engine_rope *rope,
                                  engine_dtype dtype, engine_stream stream);

    /// dqkv (N, (H + 2K) * Dh) T; dq_norm, dk_norm (Dh) f32, added to; dq (N, H, Dh), dk, dv (N, K, Dh) T; scratch
    /// (ceil(N / 64), 2, Dh) f32. `slots` is not looked at: rows are slots.
    engine_status (*rope_backward)(void *dqkv, float *dq_norm, float *dk_norm, float *scratch, const void *dq,
                                   const void *dk, const void *dv, const void *qkv, const engine_rope *rope,
                                   engine_dtype dtype, engine_stream stream);

    /// `o = softmax(scale * q k^T + mask) v`, for tiles of queries.  kernels/attention.cu
    ///
    /// q, o (N, H, Dh) T; k, v (S, K, Dh) T; lse (N, H) f32: log-sum-exp of a row's scaled, masked scores.
    engine_status (*attention_forward)(void *o, float *lse, const void *q, const void *k, const void *v,
                                       const engine_attention *attention, engine_stream stream);

    /// `p = exp(s - lse);  dv = p^T do;  ds = p * (do v^T - rowsum(do * o));  dq = scale ds k;  dk = scale ds^T q`
    ///
    /// dq, d_o, o, q (N, H, Dh) T; dk, dv, k, v (N, K, Dh) T; lse (N, H) f32; scratch N * H * (1 + 2 Dh) f32.
    engine_status (*attention_backward)(void *dq, void *dk, void *dv, float *scratch, const float *lse, const void *d_o,
                                        const void *o, const void *q, const void *k, const void *v,
                                        const engine_attention *attention, engine_stream stream);

    /// attention_forward for few rows over many slots, as in decoding: the keys of a row are split over blocks.
    ///
    /// The tiles of queries are one row each. scratch N * H * 16 * (2 + Dh) f32.
    engine_status (*attention_decode)(void *o, float *scratch, const void *q, const void *k, const void *v,
                                      const engine_attention *attention, engine_stream stream);

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
    /// h (N, D) T; weight (V, D) T; ids (N), each below V, or UINT32_MAX for a row of zeros.
    engine_status (*embedding_forward)(void *h, const void *weight, const uint32_t *ids, uint32_t n, uint32_t d,
                                       float scale, engine_dtype dtype, engine_stream stream);

    /// `dweight[id] += scale * sum of dh over the rows that have this id`, rows in order
    ///
    /// dweight (V, D) f32; dh (N, D) T; ids (N). `rows` (N) are the rows of the batch sorted by id, rows of one id in
    /// ascending order; `starts` (U + 1) is where each of the U distinct ids begins in `rows`, and N. Runs may be empty.
    engine_status (*embedding_backward)(float *dweight, const void *dh, const uint32_t *ids, const uint32_t *rows,
                                        const uint32_t *starts, uint32_t u, uint32_t d, float scale, engine_dtype dtype,
                                        engine_stream stream);

    /// `norm = sqrt(sum g^2);  factor = min(1, max_norm / (norm + 1e-6))`, 1 when max_norm is 0.  kernels/clip.cu
    ///
    /// norm, factor: one f32 each; gradients (n) f32; scratch (ceil(n / 16384)) f32. The factor is NaN when the norm or
    /// `*loss` (one f64, or null) is not finite.
    engine_status (*clip_factor)(float *norm, float *factor, float *scratch, const float *gradients, const double *loss,
                                 uint64_t n, float max_norm, engine_stream stream);

    /// One AdamW update of every parameter; gradients become 0. Nothing happens when `*factor` is NaN.  kernels/adamw.cu
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

    /// The next token of each row: `argmax` of equals the first, or a draw.  kernels/sample.cu
    ///
    /// tokens (R); logits (R, V) T. With `sampling` (host memory) null: the largest logit, the first of equals. Else row
    /// r draws with `uniforms[r]`, in [0, 1): tokens are put in descending order of their logits (of equals the first
    /// comes first), top_k of them are kept, then the fewest whose probability reaches top_p, and the token is taken
    /// at which the running sum of exp((z - max) / temperature) passes `uniforms[r]` times that of all that are kept.
    engine_status (*sample)(uint32_t *tokens, const void *logits, const float *uniforms, const engine_sampling *sampling,
                            uint32_t r, uint32_t v, engine_dtype dtype, engine_stream stream);

    /// `to = from` in another type, rounded to nearest.  kernels/cast.cu
    ///
    /// to (n) of `to_dtype`; from (n) of `from_dtype`.
    engine_status (*cast)(void *to, const void *from, uint64_t n, engine_dtype to_dtype, engine_dtype from_dtype,
                          engine_stream stream);
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

/// Launches that were captured, and calls between them.
typedef struct engine_emulator_graph engine_emulator_graph;

/// From now on the calling thread's launches are kept, with the arguments they have now, and not run.
void engine_emulator_capture_begin(void);

/// Keeps a call to `run(data)` in its place among the launches, until the graph is freed by `drop(data)`.
void engine_emulator_capture_call(engine_status (*run)(void *data), void (*drop)(void *data), void *data);

/// Ends the capture.
engine_emulator_graph *engine_emulator_capture_end(void);

/// Runs what was captured, in order, up to the first failure.
engine_status engine_emulator_graph_launch(const engine_emulator_graph *graph);

void engine_emulator_graph_free(engine_emulator_graph *graph);

#ifdef __cplusplus
}
#endif

#endif
