// The kernel table: every launcher, declared once for its three implementations: CUDA and the emulator (kernels/*.cu) and
// the host (src/host/*.rs, in Rust, through bindgen).
//
// Shapes are in round brackets and use one alphabet: N tokens of a batch, D hidden, F intermediate, V vocab, H heads,
// K kv heads, Dh head_dim, S slots of keys, R rows of a chunk. Tensors are row-major. T is the element type that
// `dtype` names. A is the type of its sums (statistics, gradients of parameters, master weights): f64 beside f64, else f32.
// Everything else is spelled out. Arguments come in the order outputs, saved, inputs, sizes, scalars, dtype, stream.
// Gradients of matrices are added to (`+=`), everything else is written (`=`).
//
// All pointers are device memory. A launcher queues its kernels on `stream` and does not wait; it owns grid, block and
// shared memory. It returns ENGINE_OK, or a code whose sentence `last_error` has. Sizes of 0 are fine: nothing happens.
// Scalars are f64 and are rounded to A where they are used.
// Pointers that are 16-byte aligned and rows of a whole number of 16 bytes take the fast path; others are slower.
#ifndef ENGINE_H
#define ENGINE_H

#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// Element type of activations and compute weights.
typedef enum engine_dtype {
    ENGINE_F32 = 0,
    ENGINE_BF16 = 1,
    /// The host alone computes in it: the kernels of kernels/*.cu refuse it.
    ENGINE_F64 = 2,
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
    /// A thread ended with an asynchronous copy that it never waited for, or did not wait for earlier kernels.
    ENGINE_MISSING_WAIT = 6,
} engine_status;

/// A cudaStream_t; ignored by the emulator and the host, which run everything at once.
typedef void *engine_stream;

/// Slots of a tile of keys, and rows of a tile of queries, in the lists of `engine_attention`.
#define ENGINE_ATTENTION_TILE 64
/// The same for the host, whose tiles cost nothing by themselves: smaller ones follow the visible area more closely.
#define ENGINE_HOST_ATTENTION_TILE 32

/// Keys whose gradients a block of `attention_backward` adds up.
#define ENGINE_ATTENTION_KEYS 32

/// Parts that a row's keys are split into in decoding, at most: `attention_decode` has scratch for so many.
#define ENGINE_DECODE_SPLITS 16

/// Parts that a row of logits is split into for `sample`, at most.
#define ENGINE_ARGMAX_PARTS 16

/// Gradients that one partial sum of `clip_factor` covers.
#define ENGINE_CLIP_RUN 16384

/// Rows and columns of a weight whose gradient's sum of squares `weight_gradients` gives as one number.
#define ENGINE_GRADIENT_TILE 128

/// Weights of one launch of `weight_gradients`, at most: what the arguments of a kernel have room for.
#define ENGINE_MOST_WEIGHT_GRADIENTS 80

/// Rows of `linear_few_rows`, at most.
#define ENGINE_FEW_ROWS 64

/// Rows from which on `linear_geglu_forward` and `linear_geglu_backward` cut their products into large tiles: enough of those for all of a chip.
#define ENGINE_MANY_ROWS 2048

/// Rows that a product of few rows norms itself, at most, and how wide they may be: they lie in a block's shared memory.
#define ENGINE_NORMED_ROWS 32
#define ENGINE_NORMED_WIDTH 1024

/// Columns whose sum of squares `sum_parts` gives as one number.
#define ENGINE_SUM_PARTS_COLUMNS 32

/// A weight's gradient, `dweight = dy^T x` or `+=`: a struct for the launcher, matrices of the device.
typedef struct engine_weight_gradient {
    /// (O, I) A
    void *dweight;
    /// (N, O) T
    const void *dy;
    /// (N, I) T
    const void *x;
    uint32_t n;
    uint32_t o;
    uint32_t i;
    /// 1: `+=`
    uint32_t accumulate;
} engine_weight_gradient;

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
    /// keys is ENGINE_ATTENTION_TILE slots (on the host ENGINE_HOST_ATTENTION_TILE), and a tile of queries as many rows
    /// (`attention_decode`: one row). What is not in the list nobody in it sees.
    const uint32_t *key_starts;
    const uint32_t *key_tiles;
    /// The same the other way round, for the backward, whose rows are slots (N = S): tiles of queries that see key tile t.
    const uint32_t *query_starts;
    const uint32_t *query_tiles;
    /// `attention_decode`: (N) zeros, with which the shares of a row's keys find who of them is the last; zeros again afterwards
    uint32_t *arrived;
    /// UINT32_MAX: no limit
    uint32_t window;
    /// N
    uint32_t n;
    /// S
    uint32_t s;
    engine_heads heads;
    /// On the scores, before the softmax.
    double scale;
    engine_dtype dtype;
    /// Query heads over which a backward adds up dk and dv: all that read a kv head (fewer bytes), or fewer, whose sums are then
    /// parts that `rope_backward` adds up (more blocks). A divisor of H / K. The host knows only all.
    uint32_t heads_at_once;
} engine_attention;

/// What `rope_forward` and `rope_backward` read beside activations: a struct for the launcher, arrays of the device.
typedef struct engine_rope {
    /// (Dh) T
    const void *q_norm;
    /// (Dh) T
    const void *k_norm;
    /// (P, Dh/2) A each: of the angles `p / theta^(2i / Dh)` of position p
    const void *cos;
    const void *sin;
    /// (N), each below P
    const uint32_t *positions;
    /// (N): row of k and v that row n is written to; null: n itself
    const uint32_t *slots;
    uint32_t n;
    engine_heads heads;
    double eps;
} engine_rope;

/// The norms between two blocks, and the residual stream: `sum = h + rmsnorm(x, weight)`, then `rmsnorm(sum, next_weight)`.
typedef struct engine_norm_pair {
    /// (N, D) T, not where h or x is
    void *sum;
    /// (N, D) T
    const void *h;
    /// (D) T each
    const void *weight;
    const void *next_weight;
    double eps;
} engine_norm_pair;

/// How `sample` draws: temperature, then top-k, then top-p, then a draw from what is left.
typedef struct engine_sampling {
    float temperature;
    /// 0: no limit
    uint32_t top_k;
    /// 1: no limit
    float top_p;
} engine_sampling;

/// How a file stores a run of weights, and so what `round_blocks` makes of them.
typedef enum engine_format {
    /// A norm's weight, stored + 1 in f32: `(x + 1) - 1`.
    ENGINE_FORMAT_NORM = 0,
    /// Blocks of 32: `f16(d) * q` with `d = largest |x| / 127`, `q = round(x / d)`, halves away from zero.
    ENGINE_FORMAT_Q8_0 = 1,
    /// Blocks of 32: `f16(d) * (q - 8)` with m the first number of the largest magnitude, `d = m / -8`,
    /// `q = min(15, trunc(x / d + 8.5))`.
    ENGINE_FORMAT_Q4_0 = 2,
} engine_format;

/// Numbers of a block of these formats.
#define ENGINE_FORMAT_BLOCK 32

/// What one AdamW update needs beside the tensors. In device memory, so that a captured graph can be replayed.
typedef struct engine_adamw_step {
    double learning_rate;
    double weight_decay;
    double eps;
    double beta1;
    double beta2;
    /// 1 - beta1 and 1 - beta2: in f32 the difference of a beta near 1 would be off by 1e-5.
    double one_minus_beta1;
    double one_minus_beta2;
    /// learning_rate / (1 - beta1^t) for update t, from 1
    double rate;
    /// 1 / sqrt(1 - beta2^t)
    double root;
    /// t, which also chooses how the copy is rounded: see `split_weights`.
    double step;
    /// The update that has split the weights, if they are in halves.
    double split_by;
} engine_adamw_step;

/// What a step measures, in device memory: the host reads it once, at the end.
typedef struct engine_step_results {
    /// Sums over the scored tokens: of w * loss and of w * entropy in nats, of w where the target has the largest logit
    /// (the first of equals), of w.
    double loss;
    double entropy;
    double correct;
    double scored;
    /// Of all gradients, before clipping.
    double grad_norm;
    /// What AdamW multiplies gradients by; NaN: it leaves everything alone.
    double clip_factor;
} engine_step_results;

/// The launchers of one implementation.
typedef struct engine_kernels {
    /// `cuda`, `emulated` or `cpu`.
    const char *device;

    /// What went wrong in the calling thread's last launch that failed.
    const char *(*last_error)(void);

    /// Whether blocks of a kernel may take their places before the kernel before it has ended (programmatic dependent launch), where its code
    /// was made for that (compute_90a); of all devices of the process. They may unless somebody says otherwise.
    void (*allow_programmatic_launch)(bool allowed);

    /// `y = x * rstd * (1 + weight),  rstd = 1 / sqrt(mean(x^2) + eps)`.  rmsnorm
    ///
    /// y, x (N, D) T; weight (D) T; rstd (N) A.
    engine_status (*rmsnorm_forward)(void *y, void *rstd, const void *x, const void *weight, uint32_t n, uint32_t d,
                                     double eps, engine_dtype dtype, engine_stream stream);

    /// `dx = [dh +] rstd * (g - x * rstd^2 * mean(g * x)), g = dy * (1 + weight);  dweight = sum_N dy * x * rstd`
    ///
    /// dx, dh, dy, x (N, D) T; weight (D) T; rstd (N) A. parts (ceil(N / rows), D) A: the sums of `rows` rows each, which
    /// `sum_parts` adds up; null where nobody wants dweight. `dh` is what has arrived at x from elsewhere, or null; it may be
    /// dx itself.
    engine_status (*rmsnorm_backward)(void *dx, void *parts, const void *rstd, const void *dh, const void *dy, const void *x,
                                      const void *weight, uint32_t n, uint32_t d, uint32_t rows, engine_dtype dtype,
                                      engine_stream stream);

    /// `sum = h + rmsnorm(x, weight);  y = rmsnorm(sum, next_weight)`.  residual
    ///
    /// sum, y, h, x (N, D) T; weight, next_weight (D) T; rstd (2, N) A, of both norms.
    engine_status (*rmsnorm_pair_forward)(void *sum, void *y, void *rstd, const void *h, const void *x, const void *weight,
                                          const void *next_weight, uint32_t n, uint32_t d, double eps, engine_dtype dtype,
                                          engine_stream stream);

    /// dh is what rmsnorm_backward makes of `dsum`, dy and sum, and dx what it makes of dh and x.
    ///
    /// dh, dx, dsum, dy, sum, x (N, D) T; the rest as there, `parts` of weight, `next_parts` of next_weight. `dsum` is what has
    /// arrived at the sum from elsewhere, or null. dh is the gradient of the forward's `h`.
    engine_status (*rmsnorm_pair_backward)(void *dh, void *dx, void *parts, void *next_parts, const void *rstd,
                                           const void *dsum, const void *dy, const void *sum, const void *x,
                                           const void *weight, const void *next_weight, uint32_t n, uint32_t d,
                                           uint32_t rows, engine_dtype dtype, engine_stream stream);

    /// Gradients of vectors, from the parts that `rmsnorm_backward` and the like left: `= sum of the parts`, or `+=`.  sum_parts
    ///
    /// gradients A, flat; vector i of the `vectors` lies at `gradients + offsets[i]`, its parts (count, len) A at
    /// `parts + count * starts[i]`, `len = starts[i + 1] - starts[i]`; starts (vectors + 1) begins with 0 and ends with `columns`.
    /// `accumulate`: add. squares (ceil(columns / ENGINE_SUM_PARTS_COLUMNS)) A: sums of the gradients' squares, or null.
    /// `dtype`: that of A.
    engine_status (*sum_parts)(void *gradients, void *squares, const void *parts, const uint32_t *starts,
                               const uint64_t *offsets, uint32_t vectors, uint32_t columns, uint32_t count,
                               uint32_t accumulate, engine_dtype dtype, engine_stream stream);

    /// Gradients of several weights, each `dweight = dy^T x` or `+=`, and the sums of their squares.  weight_gradients
    ///
    /// gradients (count), at most ENGINE_MOST_WEIGHT_GRADIENTS, in host memory; O and I are multiples of 8, addresses of 16.
    /// squares A: a sum for each tile of ENGINE_GRADIENT_TILE rows and columns of a weight, row by row of tiles, weight by
    /// weight; or null.
    engine_status (*weight_gradients)(void *squares, const engine_weight_gradient *gradients, uint32_t count,
                                      engine_dtype dtype, engine_stream stream);

    /// q and k normed per head and rotated by their positions, v copied.  rope
    ///
    /// `u = rmsnorm(x, norm);  y[i] = u[i] cos - u[i + Dh/2] sin;  y[i + Dh/2] = u[i + Dh/2] cos + u[i] sin`.
    /// q (N, H, Dh) T; k, v (S, K, Dh) T, of which the rows in `slots` are written; qkv (N, (H + 2K) * Dh) T.
    engine_status (*rope_forward)(void *q, void *k, void *v, const void *qkv, const engine_rope *rope,
                                  engine_dtype dtype, engine_stream stream);

    /// dqkv (N, (H + 2K) * Dh) T; dq (N, H, Dh), dk, dv (N, K, Dh) T, or with `split` > 1 parts (N, K, split, Dh) A of dk and dv,
    /// which are added in order and rounded; q_parts, k_parts (ceil(N / rows), Dh) A: sums of `rows` rows of the norms' gradients,
    /// which `sum_parts` adds up, or null. `slots` is not looked at: rows are slots.
    engine_status (*rope_backward)(void *dqkv, void *q_parts, void *k_parts, const void *dq, const void *dk, const void *dv,
                                   const void *qkv, const engine_rope *rope, uint32_t split, uint32_t rows,
                                   engine_dtype dtype, engine_stream stream);

    /// `o = softmax(scale * q k^T + mask) v`, for tiles of queries.  attention
    ///
    /// q, o (N, H, Dh) T; k, v (S, K, Dh) T; lse (N, H) A: log-sum-exp of a row's scaled, masked scores.
    engine_status (*attention_forward)(void *o, void *lse, const void *q, const void *k, const void *v,
                                       const engine_attention *attention, engine_stream stream);

    /// `p = exp(s - lse);  dv = p^T do;  ds = p * (do v^T - rowsum(do * o));  dq = scale ds k;  dk = scale ds^T q`
    ///
    /// dq, d_o, o, q (N, H, Dh) T; dk, dv, k, v (N, K, Dh) T; lse (N, H) A; scratch (N, H) A. Where `heads_at_once` is fewer than
    /// H / K, dk and dv are parts (N, H / heads_at_once, Dh) A.
    engine_status (*attention_backward)(void *dq, void *dk, void *dv, void *scratch, const void *lse, const void *d_o,
                                        const void *o, const void *q, const void *k, const void *v,
                                        const engine_attention *attention, engine_stream stream);

    /// attention_forward for few rows over many slots, as in decoding: the keys of a row are split over blocks.
    ///
    /// The tiles of queries are one row each. scratch N * H * ENGINE_DECODE_SPLITS * (2 + Dh) A.
    engine_status (*attention_decode)(void *o, void *scratch, const void *q, const void *k, const void *v,
                                      const engine_attention *attention, engine_stream stream);

    /// rope_forward into a cache, and attention_decode of what it gives, for bf16: k and v are written where `slots` say, q nowhere.
    ///
    /// o (N, H, Dh), k, v (S, K, Dh), qkv (N, (H + 2K) * Dh) T; scratch as there. Each token is the only one that sees its slot. H / K is
    /// at most 16, Dh even.
    engine_status (*rope_attention_decode)(void *o, void *scratch, void *k, void *v, const void *qkv, const engine_rope *rope,
                                           const engine_attention *attention, engine_stream stream);

    /// `y = gelu_tanh(gate) * up`.  geglu
    ///
    /// x (N, 2F) T, rows of gate then up; y (N, F) T.
    engine_status (*geglu_forward)(void *y, const void *x, uint32_t n, uint32_t f, engine_dtype dtype,
                                   engine_stream stream);

    /// `dgate = dy * up * gelu'(gate);  dup = dy * gelu(gate)`
    ///
    /// dx, x (N, 2F) T; dy (N, F) T.
    engine_status (*geglu_backward)(void *dx, const void *dy, const void *x, uint32_t n, uint32_t f, engine_dtype dtype,
                                    engine_stream stream);

    /// `y = x weight^T` for at most ENGINE_FEW_ROWS rows of bf16.  linear
    ///
    /// y (N, O), x (N, I), weight (O, I) T. I and O are multiples of 8, addresses of 16. With norms x is what the block before
    /// gives, and its norm of the sum is multiplied: as by `rmsnorm_pair_forward`, to the bit. Then N <= ENGINE_NORMED_ROWS, I <=
    /// ENGINE_NORMED_WIDTH.
    engine_status (*linear_few_rows)(void *y, const void *x, const void *weight, const engine_norm_pair *norms, uint32_t n,
                                     uint32_t i, uint32_t o, engine_dtype dtype, engine_stream stream);

    /// `x = h weight^T;  y = geglu(x)` of bf16.  linear_geglu
    ///
    /// y (N, F), h (N, D), weight (2F, D) T; x (N, 2F) T or null, when nobody wants it. D and F are multiples of 8, addresses of 16.
    /// Norms of h as in linear_few_rows.
    engine_status (*linear_geglu_forward)(void *y, void *x, const void *h, const void *weight,
                                          const engine_norm_pair *norms, uint32_t n, uint32_t d, uint32_t f,
                                          engine_dtype dtype, engine_stream stream);

    /// `dy = dz weight`, the gradient of a y that the product `z = y weight^T` read; then geglu_backward of dy and x. For bf16.
    ///
    /// dx, x (N, 2F), dz (N, D), weight (D, F) T; y = geglu(x) (N, F) T again, or null, when nobody wants it. D and F are multiples of 8,
    /// addresses of 16.
    engine_status (*linear_geglu_backward)(void *dx, void *y, const void *dz, const void *weight, const void *x, uint32_t n,
                                           uint32_t d, uint32_t f, engine_dtype dtype, engine_stream stream);

    /// `h = scale * weight[ids]`.  embedding
    ///
    /// h (N, D) T; weight (V, D) T; ids (N), each below V, or UINT32_MAX for a row of zeros.
    engine_status (*embedding_forward)(void *h, const void *weight, const uint32_t *ids, uint32_t n, uint32_t d,
                                       double scale, engine_dtype dtype, engine_stream stream);

    /// `dweight[id] += scale * sum of dh over the rows that have this id`, rows in order
    ///
    /// dweight (V, D) A; dh (N, D) T; ids (N). `rows` (N) are the rows of the batch sorted by id, rows of one id in
    /// ascending order; `starts` (U + 1) is where each of the U distinct ids begins in `rows`, and N. Runs may be empty.
    /// squares (U) A: what the sum of dweight's squares grows by in each run; or null.
    engine_status (*embedding_backward)(void *dweight, void *squares, const void *dh, const uint32_t *ids, const uint32_t *rows,
                                        const uint32_t *starts, uint32_t u, uint32_t d, double scale, engine_dtype dtype,
                                        engine_stream stream);

    /// `grad_norm = sqrt(sum g^2);  clip_factor = min(1, max_norm / (grad_norm + 1e-6))`, 1 when max_norm is 0.  clip
    ///
    /// results: one struct; gradients (n) A; squares (ceil(n / ENGINE_CLIP_RUN)) A is scratch. With `gradients` null, squares
    /// (n) A are what is to be added up: sums of the gradients' squares. The factor is NaN when the norm or the results' loss
    /// is not finite. `dtype`: that of A.
    engine_status (*clip_factor)(engine_step_results *results, void *squares, const void *gradients, uint64_t n,
                                 double max_norm, engine_dtype dtype, engine_stream stream);

    /// One AdamW update of every parameter. Nothing happens when the results' clip_factor is NaN.  adamw
    ///
    /// parameters, m, v, gradients (n) A; copy null, or (n) bf16: then parameters are (n) u16, and both together the weights as
    /// `split_weights` leaves them, before with the step's `split_by` and afterwards with its `step`. results, step: one struct
    /// each. Group g of the G groups covers `starts[g] .. starts[g + 1]` and decays by `learning_rate * weight_decay *
    /// decays[g]`; starts (G + 1) begins with 0 and ends with n; decays (G) f32. `dtype`: that of A.
    engine_status (*adamw)(void *parameters, void *m, void *v, void *copy, const void *gradients,
                           const engine_step_results *results, const engine_adamw_step *step, const uint64_t *starts,
                           const float *decays, uint32_t groups, uint64_t n, engine_dtype dtype, engine_stream stream);

    /// Loss of a chunk of logits, which become their gradient.  cross_entropy
    ///
    /// logits (R, V) T; the first four numbers of `results` are added to. Targets of row r are
    /// `starts[r] .. starts[r + 1]`; starts (R + 1); ids (M), distinct within a row; weights (M) f32; target_logits (M) A
    /// and row_sums (R, 4) A are scratch. Gradients are those of `*scale` * sum of w * loss; a null `scale` leaves the
    /// logits alone. `smoothing`, in [0, 1): the part of a target's probability that all V share.
    engine_status (*cross_entropy)(void *logits, engine_step_results *results, void *target_logits, void *row_sums,
                                   const uint32_t *starts, const uint32_t *ids, const float *weights,
                                   const double *scale, float smoothing, uint32_t r, uint32_t v, engine_dtype dtype,
                                   engine_stream stream);

    /// The next token of each row: `argmax` of equals the first, or a draw.  sample
    ///
    /// tokens (R); best (R, ENGINE_ARGMAX_PARTS) is scratch; logits (R, V) T. With `sampling` (host memory) null: the largest
    /// logit, the first of equals. Else row r draws with `uniforms[r]`, in [0, 1): tokens are put in descending order of their
    /// logits (of equals the first comes first), top_k of them are kept, then the fewest whose probability reaches top_p, and
    /// the token is taken at which the running sum of exp((z - max) / temperature) passes `uniforms[r]` times that of all that
    /// are kept.
    engine_status (*sample)(uint32_t *tokens, uint64_t *best, const void *logits, const float *uniforms,
                            const engine_sampling *sampling, uint32_t r, uint32_t v, engine_dtype dtype, engine_stream stream);

    /// `to = from` in another type, rounded to nearest.  cast
    ///
    /// to (n) of `to_dtype`; from (n) of `from_dtype`.
    engine_status (*cast)(void *to, const void *from, uint64_t n, engine_dtype to_dtype, engine_dtype from_dtype,
                          engine_stream stream);

    /// Master weights as two halves: the copy that is computed with, and what it leaves out.  split_weights
    ///
    /// copy (n) bf16; lower (n) u16: the lower half of each weight's bits; from (n) f32. With `step` 0 the copy is rounded to
    /// nearest, ties to even. Else up or down at random, on average to the weight itself: an update is often smaller than half
    /// the distance of two numbers of bf16, and rounded to nearest it would be lost until many of them have added up. Element i
    /// of the copy is then the upper half of the weight's bits plus a number below 2^16 that follows from i and `step` alone
    /// (`rounding` in kernels/halves.cuh). A weight that bf16 holds exactly stays itself; so do infinities, and NaN stays NaN.
    engine_status (*split_weights)(void *copy, void *lower, const void *from, uint64_t n, uint64_t step, engine_stream stream);

    /// The weights that `split_weights` has split, with the same `step`.  split_weights
    ///
    /// to (n) f32; copy (n) bf16; lower (n) u16. They are what they were, to the bit, but for those that lay halfway between two
    /// numbers of bf16 and were rounded up with step 0: these are the next f32 above in size.
    engine_status (*join_weights)(void *to, const void *copy, const void *lower, uint64_t n, uint64_t step, engine_stream stream);

    /// Master weights as a file would give them back: encoded and decoded.  round_blocks
    ///
    /// to (n) of `dtype`; from (n) f32. Group g of the G groups covers `starts[g] .. starts[g + 1]` and is stored in the
    /// `engine_format` of `formats[g]`; its blocks are `blocks[g] .. blocks[g + 1]` of the `count` blocks of all, the last one
    /// of a norm being a part of a block. starts, blocks (G + 1) begin with 0 and end with n and `count`; formats (G).
    engine_status (*round_blocks)(void *to, const void *from, const uint64_t *starts, const uint64_t *blocks,
                                  const uint32_t *formats, uint32_t groups, uint64_t count, engine_dtype dtype,
                                  engine_stream stream);

    /// `y = x / (1 - p)` where an element is kept, else 0.  dropout
    ///
    /// y, x (n) T; y may be x. Element i is kept when 32 bits that follow from key (2), `product` and i alone are at least
    /// p * 2^32: the same on every device, in every type, and whenever it is computed. p in [0, 1).
    engine_status (*dropout)(void *y, const void *x, const uint32_t *key, uint64_t n, uint32_t product, double p,
                             engine_dtype dtype, engine_stream stream);

    /// `sum += term`.  add
    ///
    /// sum, term (n) T.
    engine_status (*add)(void *sum, const void *term, uint64_t n, engine_dtype dtype, engine_stream stream);
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
