//! The kernel table of `kernels/engine.h` in Rust, by bindgen (scripts/generate-bindings). Not to be edited.
#![allow(clippy::type_complexity, missing_docs, non_camel_case_types)]

pub const ENGINE_ATTENTION_TILE: u32 = 64;
pub const ENGINE_HOST_ATTENTION_TILE: u32 = 32;
pub const ENGINE_ATTENTION_KEYS: u32 = 32;
pub const ENGINE_DECODE_SPLITS: u32 = 16;
pub const ENGINE_ARGMAX_PARTS: u32 = 16;
pub const ENGINE_CLIP_RUN: u32 = 16384;
pub const ENGINE_GRADIENT_TILE: u32 = 128;
pub const ENGINE_MOST_WEIGHT_GRADIENTS: u32 = 80;
pub const ENGINE_FEW_ROWS: u32 = 64;
pub const ENGINE_MANY_ROWS: u32 = 2048;
pub const ENGINE_NORMED_ROWS: u32 = 32;
pub const ENGINE_NORMED_WIDTH: u32 = 1024;
pub const ENGINE_SUM_PARTS_COLUMNS: u32 = 32;
pub const ENGINE_FORMAT_BLOCK: u32 = 32;
#[repr(u32)]
#[doc = " Element type of activations and compute weights."]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub enum engine_dtype {
    ENGINE_F32 = 0,
    ENGINE_BF16 = 1,
    #[doc = " The host alone computes in it: the kernels of kernels/*.cu refuse it."]
    ENGINE_F64 = 2,
}
#[repr(u32)]
#[doc = " How a launch went. From ENGINE_DIVERGENT_BARRIER on only the emulator tells."]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub enum engine_status {
    ENGINE_OK = 0,
    ENGINE_BAD_ARGUMENT = 1,
    #[doc = " The driver refused the launch."]
    ENGINE_LAUNCH_FAILED = 2,
    #[doc = " Threads wait at different barriers, or for threads that never arrive."]
    ENGINE_DIVERGENT_BARRIER = 3,
    #[doc = " Two threads touch the same memory, one of them writes, and nothing orders them."]
    ENGINE_RACE = 4,
    #[doc = " An access beside an array, or one that is not aligned."]
    ENGINE_OUT_OF_BOUNDS = 5,
    #[doc = " A thread ended with an asynchronous copy that it never waited for, or did not wait for earlier kernels."]
    ENGINE_MISSING_WAIT = 6,
}
#[doc = " A cudaStream_t; ignored by the emulator and the host, which run everything at once."]
pub type engine_stream = *mut ::std::os::raw::c_void;
#[doc = " A weight's gradient, `dweight = dy^T x` or `+=`: a struct for the launcher, matrices of the device."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct engine_weight_gradient {
    #[doc = " (O, I) A"]
    pub dweight: *mut ::std::os::raw::c_void,
    #[doc = " (N, O) T"]
    pub dy: *const ::std::os::raw::c_void,
    #[doc = " (N, I) T"]
    pub x: *const ::std::os::raw::c_void,
    pub n: u32,
    pub o: u32,
    pub i: u32,
    #[doc = " 1: `+=`"]
    pub accumulate: u32,
}
#[doc = " H query heads on K kv heads of Dh elements; H is a multiple of K, and query head h reads kv head h / (H / K)."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct engine_heads {
    pub query: u32,
    pub kv: u32,
    pub dim: u32,
}
#[doc = " What attention does, beside activations: which keys each query sees, and the tiles that this leaves to compute. The\n struct is read by the launcher; the arrays are device memory, made once per batch.\n\n With `i = slots[row]`, row `row` sees the key in slot j when\n `j <= i && i < end[j] && positions[row] - key_positions[j] < window`. slots ascend. A row sees at least one key."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct engine_attention {
    #[doc = " (N)"]
    pub slots: *const u32,
    #[doc = " (N)"]
    pub positions: *const u32,
    #[doc = " (S); 0 for a slot that holds nothing: nobody sees it"]
    pub end: *const u32,
    #[doc = " (S)"]
    pub key_positions: *const u32,
    #[doc = " Key tiles that tile t of queries looks at are `key_tiles[key_starts[t] .. key_starts[t + 1]]`, ascending; a tile of\n keys is ENGINE_ATTENTION_TILE slots (on the host ENGINE_HOST_ATTENTION_TILE), and a tile of queries as many rows\n (`attention_decode`: one row). What is not in the list nobody in it sees."]
    pub key_starts: *const u32,
    pub key_tiles: *const u32,
    #[doc = " The same the other way round, for the backward, whose rows are slots (N = S): tiles of queries that see key tile t."]
    pub query_starts: *const u32,
    pub query_tiles: *const u32,
    #[doc = " `attention_decode`: (N) zeros, with which the shares of a row's keys find who of them is the last; zeros again afterwards"]
    pub arrived: *mut u32,
    #[doc = " UINT32_MAX: no limit"]
    pub window: u32,
    #[doc = " N"]
    pub n: u32,
    #[doc = " S"]
    pub s: u32,
    pub heads: engine_heads,
    #[doc = " On the scores, before the softmax."]
    pub scale: f64,
    pub dtype: engine_dtype,
    #[doc = " Query heads over which a backward adds up dk and dv: all that read a kv head (fewer bytes), or fewer, whose sums are then\n parts that `rope_backward` adds up (more blocks). A divisor of H / K. The host knows only all."]
    pub heads_at_once: u32,
}
#[doc = " What `rope_forward` and `rope_backward` read beside activations: a struct for the launcher, arrays of the device."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct engine_rope {
    #[doc = " (Dh) T"]
    pub q_norm: *const ::std::os::raw::c_void,
    #[doc = " (Dh) T"]
    pub k_norm: *const ::std::os::raw::c_void,
    #[doc = " (P, Dh/2) A each: of the angles `p / theta^(2i / Dh)` of position p"]
    pub cos: *const ::std::os::raw::c_void,
    pub sin: *const ::std::os::raw::c_void,
    #[doc = " (N), each below P"]
    pub positions: *const u32,
    #[doc = " (N): row of k and v that row n is written to; null: n itself"]
    pub slots: *const u32,
    pub n: u32,
    pub heads: engine_heads,
    pub eps: f64,
}
#[doc = " The norms between two blocks, and the residual stream: `sum = h + rmsnorm(x, weight)`, then `rmsnorm(sum, next_weight)`."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct engine_norm_pair {
    #[doc = " (N, D) T, not where h or x is"]
    pub sum: *mut ::std::os::raw::c_void,
    #[doc = " (N, D) T"]
    pub h: *const ::std::os::raw::c_void,
    #[doc = " (D) T each"]
    pub weight: *const ::std::os::raw::c_void,
    pub next_weight: *const ::std::os::raw::c_void,
    pub eps: f64,
}
#[doc = " How `sample` draws: temperature, then top-k, then top-p, then a draw from what is left."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct engine_sampling {
    pub temperature: f32,
    #[doc = " 0: no limit"]
    pub top_k: u32,
    #[doc = " 1: no limit"]
    pub top_p: f32,
}
#[repr(u32)]
#[doc = " How a file stores a run of weights, and so what `round_blocks` makes of them."]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub enum engine_format {
    #[doc = " A norm's weight, stored + 1 in f32: `(x + 1) - 1`."]
    ENGINE_FORMAT_NORM = 0,
    #[doc = " Blocks of 32: `f16(d) * q` with `d = largest |x| / 127`, `q = round(x / d)`, halves away from zero."]
    ENGINE_FORMAT_Q8_0 = 1,
    #[doc = " Blocks of 32: `f16(d) * (q - 8)` with m the first number of the largest magnitude, `d = m / -8`,\n `q = min(15, trunc(x / d + 8.5))`."]
    ENGINE_FORMAT_Q4_0 = 2,
}
#[doc = " What one AdamW update needs beside the tensors. In device memory, so that a captured graph can be replayed."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct engine_adamw_step {
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub eps: f64,
    pub beta1: f64,
    pub beta2: f64,
    #[doc = " 1 - beta1 and 1 - beta2: in f32 the difference of a beta near 1 would be off by 1e-5."]
    pub one_minus_beta1: f64,
    pub one_minus_beta2: f64,
    #[doc = " learning_rate / (1 - beta1^t) for update t, from 1"]
    pub rate: f64,
    #[doc = " 1 / sqrt(1 - beta2^t)"]
    pub root: f64,
    #[doc = " t, which also chooses how the copy is rounded: see `split_weights`."]
    pub step: f64,
    #[doc = " The update that has split the weights, if they are in halves."]
    pub split_by: f64,
}
#[doc = " What a step measures, in device memory: the host reads it once, at the end."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct engine_step_results {
    #[doc = " Sums over the scored tokens: of w * loss and of w * entropy in nats, of w where the target has the largest logit\n (the first of equals), of w."]
    pub loss: f64,
    pub entropy: f64,
    pub correct: f64,
    pub scored: f64,
    #[doc = " Of all gradients, before clipping."]
    pub grad_norm: f64,
    #[doc = " What AdamW multiplies gradients by; NaN: it leaves everything alone."]
    pub clip_factor: f64,
}
#[doc = " The launchers of one implementation."]
#[repr(C)]
#[derive(Copy, Clone)]
pub struct engine_kernels {
    #[doc = " `cuda`, `emulated` or `cpu`."]
    pub device: *const ::std::os::raw::c_char,
    #[doc = " What went wrong in the calling thread's last launch that failed."]
    pub last_error: ::std::option::Option<unsafe extern "C" fn() -> *const ::std::os::raw::c_char>,
    #[doc = " Whether blocks of a kernel may take their places before the kernel before it has ended (programmatic dependent launch), where its code\n was made for that (compute_90a); of all devices of the process. They may unless somebody says otherwise."]
    pub allow_programmatic_launch: ::std::option::Option<unsafe extern "C" fn(allowed: bool)>,
    #[doc = " `y = x * rstd * (1 + weight),  rstd = 1 / sqrt(mean(x^2) + eps)`.  rmsnorm\n\n y, x (N, D) T; weight (D) T; rstd (N) A."]
    pub rmsnorm_forward: ::std::option::Option<
        unsafe extern "C" fn(
            y: *mut ::std::os::raw::c_void,
            rstd: *mut ::std::os::raw::c_void,
            x: *const ::std::os::raw::c_void,
            weight: *const ::std::os::raw::c_void,
            n: u32,
            d: u32,
            eps: f64,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " `dx = [dh +] rstd * (g - x * rstd^2 * mean(g * x)), g = dy * (1 + weight);  dweight = sum_N dy * x * rstd`\n\n dx, dh, dy, x (N, D) T; weight (D) T; rstd (N) A. parts (ceil(N / rows), D) A: the sums of `rows` rows each, which\n `sum_parts` adds up; null where nobody wants dweight. `dh` is what has arrived at x from elsewhere, or null; it may be\n dx itself."]
    pub rmsnorm_backward: ::std::option::Option<
        unsafe extern "C" fn(
            dx: *mut ::std::os::raw::c_void,
            parts: *mut ::std::os::raw::c_void,
            rstd: *const ::std::os::raw::c_void,
            dh: *const ::std::os::raw::c_void,
            dy: *const ::std::os::raw::c_void,
            x: *const ::std::os::raw::c_void,
            weight: *const ::std::os::raw::c_void,
            n: u32,
            d: u32,
            rows: u32,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " `sum = h + rmsnorm(x, weight);  y = rmsnorm(sum, next_weight)`.  residual\n\n sum, y, h, x (N, D) T; weight, next_weight (D) T; rstd (2, N) A, of both norms."]
    pub rmsnorm_pair_forward: ::std::option::Option<
        unsafe extern "C" fn(
            sum: *mut ::std::os::raw::c_void,
            y: *mut ::std::os::raw::c_void,
            rstd: *mut ::std::os::raw::c_void,
            h: *const ::std::os::raw::c_void,
            x: *const ::std::os::raw::c_void,
            weight: *const ::std::os::raw::c_void,
            next_weight: *const ::std::os::raw::c_void,
            n: u32,
            d: u32,
            eps: f64,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " dh is what rmsnorm_backward makes of `dsum`, dy and sum, and dx what it makes of dh and x.\n\n dh, dx, dsum, dy, sum, x (N, D) T; the rest as there, `parts` of weight, `next_parts` of next_weight. `dsum` is what has\n arrived at the sum from elsewhere, or null. dh is the gradient of the forward's `h`."]
    pub rmsnorm_pair_backward: ::std::option::Option<
        unsafe extern "C" fn(
            dh: *mut ::std::os::raw::c_void,
            dx: *mut ::std::os::raw::c_void,
            parts: *mut ::std::os::raw::c_void,
            next_parts: *mut ::std::os::raw::c_void,
            rstd: *const ::std::os::raw::c_void,
            dsum: *const ::std::os::raw::c_void,
            dy: *const ::std::os::raw::c_void,
            sum: *const ::std::os::raw::c_void,
            x: *const ::std::os::raw::c_void,
            weight: *const ::std::os::raw::c_void,
            next_weight: *const ::std::os::raw::c_void,
            n: u32,
            d: u32,
            rows: u32,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " Gradients of vectors, from the parts that `rmsnorm_backward` and the like left: `= sum of the parts`, or `+=`.  sum_parts\n\n gradients A, flat; vector i of the `vectors` lies at `gradients + offsets[i]`, its parts (count, len) A at\n `parts + count * starts[i]`, `len = starts[i + 1] - starts[i]`; starts (vectors + 1) begins with 0 and ends with `columns`.\n `accumulate`: add. squares (ceil(columns / ENGINE_SUM_PARTS_COLUMNS)) A: sums of the gradients' squares, or null.\n `dtype`: that of A."]
    pub sum_parts: ::std::option::Option<
        unsafe extern "C" fn(
            gradients: *mut ::std::os::raw::c_void,
            squares: *mut ::std::os::raw::c_void,
            parts: *const ::std::os::raw::c_void,
            starts: *const u32,
            offsets: *const u64,
            vectors: u32,
            columns: u32,
            count: u32,
            accumulate: u32,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " Gradients of several weights, each `dweight = dy^T x` or `+=`, and the sums of their squares.  weight_gradients\n\n gradients (count), at most ENGINE_MOST_WEIGHT_GRADIENTS, in host memory; O and I are multiples of 8, addresses of 16.\n squares A: a sum for each tile of ENGINE_GRADIENT_TILE rows and columns of a weight, row by row of tiles, weight by\n weight; or null."]
    pub weight_gradients: ::std::option::Option<
        unsafe extern "C" fn(
            squares: *mut ::std::os::raw::c_void,
            gradients: *const engine_weight_gradient,
            count: u32,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " q and k normed per head and rotated by their positions, v copied.  rope\n\n `u = rmsnorm(x, norm);  y[i] = u[i] cos - u[i + Dh/2] sin;  y[i + Dh/2] = u[i + Dh/2] cos + u[i] sin`.\n q (N, H, Dh) T; k, v (S, K, Dh) T, of which the rows in `slots` are written; qkv (N, (H + 2K) * Dh) T."]
    pub rope_forward: ::std::option::Option<
        unsafe extern "C" fn(
            q: *mut ::std::os::raw::c_void,
            k: *mut ::std::os::raw::c_void,
            v: *mut ::std::os::raw::c_void,
            qkv: *const ::std::os::raw::c_void,
            rope: *const engine_rope,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " dqkv (N, (H + 2K) * Dh) T; dq (N, H, Dh), dk, dv (N, K, Dh) T, or with `split` > 1 parts (N, K, split, Dh) A of dk and dv,\n which are added in order and rounded; q_parts, k_parts (ceil(N / rows), Dh) A: sums of `rows` rows of the norms' gradients,\n which `sum_parts` adds up, or null. `slots` is not looked at: rows are slots."]
    pub rope_backward: ::std::option::Option<
        unsafe extern "C" fn(
            dqkv: *mut ::std::os::raw::c_void,
            q_parts: *mut ::std::os::raw::c_void,
            k_parts: *mut ::std::os::raw::c_void,
            dq: *const ::std::os::raw::c_void,
            dk: *const ::std::os::raw::c_void,
            dv: *const ::std::os::raw::c_void,
            qkv: *const ::std::os::raw::c_void,
            rope: *const engine_rope,
            split: u32,
            rows: u32,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " `o = softmax(scale * q k^T + mask) v`, for tiles of queries.  attention\n\n q, o (N, H, Dh) T; k, v (S, K, Dh) T; lse (N, H) A: log-sum-exp of a row's scaled, masked scores."]
    pub attention_forward: ::std::option::Option<
        unsafe extern "C" fn(
            o: *mut ::std::os::raw::c_void,
            lse: *mut ::std::os::raw::c_void,
            q: *const ::std::os::raw::c_void,
            k: *const ::std::os::raw::c_void,
            v: *const ::std::os::raw::c_void,
            attention: *const engine_attention,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " `p = exp(s - lse);  dv = p^T do;  ds = p * (do v^T - rowsum(do * o));  dq = scale ds k;  dk = scale ds^T q`\n\n dq, d_o, o, q (N, H, Dh) T; dk, dv, k, v (N, K, Dh) T; lse (N, H) A; scratch (N, H) A. Where `heads_at_once` is fewer than\n H / K, dk and dv are parts (N, H / heads_at_once, Dh) A."]
    pub attention_backward: ::std::option::Option<
        unsafe extern "C" fn(
            dq: *mut ::std::os::raw::c_void,
            dk: *mut ::std::os::raw::c_void,
            dv: *mut ::std::os::raw::c_void,
            scratch: *mut ::std::os::raw::c_void,
            lse: *const ::std::os::raw::c_void,
            d_o: *const ::std::os::raw::c_void,
            o: *const ::std::os::raw::c_void,
            q: *const ::std::os::raw::c_void,
            k: *const ::std::os::raw::c_void,
            v: *const ::std::os::raw::c_void,
            attention: *const engine_attention,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " attention_forward for few rows over many slots, as in decoding: the keys of a row are split over blocks.\n\n The tiles of queries are one row each. scratch N * H * ENGINE_DECODE_SPLITS * (2 + Dh) A."]
    pub attention_decode: ::std::option::Option<
        unsafe extern "C" fn(
            o: *mut ::std::os::raw::c_void,
            scratch: *mut ::std::os::raw::c_void,
            q: *const ::std::os::raw::c_void,
            k: *const ::std::os::raw::c_void,
            v: *const ::std::os::raw::c_void,
            attention: *const engine_attention,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " rope_forward into a cache, and attention_decode of what it gives, for bf16: k and v are written where `slots` say, q nowhere.\n\n o (N, H, Dh), k, v (S, K, Dh), qkv (N, (H + 2K) * Dh) T; scratch as there. Each token is the only one that sees its slot. H / K is\n at most 16, Dh even."]
    pub rope_attention_decode: ::std::option::Option<
        unsafe extern "C" fn(
            o: *mut ::std::os::raw::c_void,
            scratch: *mut ::std::os::raw::c_void,
            k: *mut ::std::os::raw::c_void,
            v: *mut ::std::os::raw::c_void,
            qkv: *const ::std::os::raw::c_void,
            rope: *const engine_rope,
            attention: *const engine_attention,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " `y = gelu_tanh(gate) * up`.  geglu\n\n x (N, 2F) T, rows of gate then up; y (N, F) T."]
    pub geglu_forward: ::std::option::Option<
        unsafe extern "C" fn(
            y: *mut ::std::os::raw::c_void,
            x: *const ::std::os::raw::c_void,
            n: u32,
            f: u32,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " `dgate = dy * up * gelu'(gate);  dup = dy * gelu(gate)`\n\n dx, x (N, 2F) T; dy (N, F) T."]
    pub geglu_backward: ::std::option::Option<
        unsafe extern "C" fn(
            dx: *mut ::std::os::raw::c_void,
            dy: *const ::std::os::raw::c_void,
            x: *const ::std::os::raw::c_void,
            n: u32,
            f: u32,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " `y = x weight^T` for at most ENGINE_FEW_ROWS rows of bf16.  linear\n\n y (N, O), x (N, I), weight (O, I) T. I and O are multiples of 8, addresses of 16. With norms x is what the block before\n gives, and its norm of the sum is multiplied: as by `rmsnorm_pair_forward`, to the bit. Then N <= ENGINE_NORMED_ROWS, I <=\n ENGINE_NORMED_WIDTH."]
    pub linear_few_rows: ::std::option::Option<
        unsafe extern "C" fn(
            y: *mut ::std::os::raw::c_void,
            x: *const ::std::os::raw::c_void,
            weight: *const ::std::os::raw::c_void,
            norms: *const engine_norm_pair,
            n: u32,
            i: u32,
            o: u32,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " `x = h weight^T;  y = geglu(x)` of bf16.  linear_geglu\n\n y (N, F), h (N, D), weight (2F, D) T; x (N, 2F) T or null, when nobody wants it. D and F are multiples of 8, addresses of 16.\n Norms of h as in linear_few_rows."]
    pub linear_geglu_forward: ::std::option::Option<
        unsafe extern "C" fn(
            y: *mut ::std::os::raw::c_void,
            x: *mut ::std::os::raw::c_void,
            h: *const ::std::os::raw::c_void,
            weight: *const ::std::os::raw::c_void,
            norms: *const engine_norm_pair,
            n: u32,
            d: u32,
            f: u32,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " `dy = dz weight`, the gradient of a y that the product `z = y weight^T` read; then geglu_backward of dy and x. For bf16.\n\n dx, x (N, 2F), dz (N, D), weight (D, F) T; y = geglu(x) (N, F) T again, or null, when nobody wants it. D and F are multiples of 8,\n addresses of 16."]
    pub linear_geglu_backward: ::std::option::Option<
        unsafe extern "C" fn(
            dx: *mut ::std::os::raw::c_void,
            y: *mut ::std::os::raw::c_void,
            dz: *const ::std::os::raw::c_void,
            weight: *const ::std::os::raw::c_void,
            x: *const ::std::os::raw::c_void,
            n: u32,
            d: u32,
            f: u32,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " `h = scale * weight[ids]`.  embedding\n\n h (N, D) T; weight (V, D) T; ids (N), each below V, or UINT32_MAX for a row of zeros."]
    pub embedding_forward: ::std::option::Option<
        unsafe extern "C" fn(
            h: *mut ::std::os::raw::c_void,
            weight: *const ::std::os::raw::c_void,
            ids: *const u32,
            n: u32,
            d: u32,
            scale: f64,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " `dweight[id] += scale * sum of dh over the rows that have this id`, rows in order\n\n dweight (V, D) A; dh (N, D) T; ids (N). `rows` (N) are the rows of the batch sorted by id, rows of one id in\n ascending order; `starts` (U + 1) is where each of the U distinct ids begins in `rows`, and N. Runs may be empty.\n squares (U) A: what the sum of dweight's squares grows by in each run; or null."]
    pub embedding_backward: ::std::option::Option<
        unsafe extern "C" fn(
            dweight: *mut ::std::os::raw::c_void,
            squares: *mut ::std::os::raw::c_void,
            dh: *const ::std::os::raw::c_void,
            ids: *const u32,
            rows: *const u32,
            starts: *const u32,
            u: u32,
            d: u32,
            scale: f64,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " `grad_norm = sqrt(sum g^2);  clip_factor = min(1, max_norm / (grad_norm + 1e-6))`, 1 when max_norm is 0.  clip\n\n results: one struct; gradients (n) A; squares (ceil(n / ENGINE_CLIP_RUN)) A is scratch. With `gradients` null, squares\n (n) A are what is to be added up: sums of the gradients' squares. The factor is NaN when the norm or the results' loss\n is not finite. `dtype`: that of A."]
    pub clip_factor: ::std::option::Option<
        unsafe extern "C" fn(
            results: *mut engine_step_results,
            squares: *mut ::std::os::raw::c_void,
            gradients: *const ::std::os::raw::c_void,
            n: u64,
            max_norm: f64,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " One AdamW update of every parameter. Nothing happens when the results' clip_factor is NaN.  adamw\n\n parameters, m, v, gradients (n) A; copy null, or (n) bf16: then parameters are (n) u16, and both together the weights as\n `split_weights` leaves them, before with the step's `split_by` and afterwards with its `step`. results, step: one struct\n each. Group g of the G groups covers `starts[g] .. starts[g + 1]` and decays by `learning_rate * weight_decay *\n decays[g]`; starts (G + 1) begins with 0 and ends with n; decays (G) f32. `dtype`: that of A."]
    pub adamw: ::std::option::Option<
        unsafe extern "C" fn(
            parameters: *mut ::std::os::raw::c_void,
            m: *mut ::std::os::raw::c_void,
            v: *mut ::std::os::raw::c_void,
            copy: *mut ::std::os::raw::c_void,
            gradients: *const ::std::os::raw::c_void,
            results: *const engine_step_results,
            step: *const engine_adamw_step,
            starts: *const u64,
            decays: *const f32,
            groups: u32,
            n: u64,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " Loss of a chunk of logits, which become their gradient.  cross_entropy\n\n logits (R, V) T; the first four numbers of `results` are added to. Targets of row r are\n `starts[r] .. starts[r + 1]`; starts (R + 1); ids (M), distinct within a row; weights (M) f32; target_logits (M) A\n and row_sums (R, 4) A are scratch. Gradients are those of `*scale` * sum of w * loss; a null `scale` leaves the\n logits alone. `smoothing`, in [0, 1): the part of a target's probability that all V share."]
    pub cross_entropy: ::std::option::Option<
        unsafe extern "C" fn(
            logits: *mut ::std::os::raw::c_void,
            results: *mut engine_step_results,
            target_logits: *mut ::std::os::raw::c_void,
            row_sums: *mut ::std::os::raw::c_void,
            starts: *const u32,
            ids: *const u32,
            weights: *const f32,
            scale: *const f64,
            smoothing: f32,
            r: u32,
            v: u32,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " The next token of each row: `argmax` of equals the first, or a draw.  sample\n\n tokens (R); best (R, ENGINE_ARGMAX_PARTS) is scratch; logits (R, V) T. With `sampling` (host memory) null: the largest\n logit, the first of equals. Else row r draws with `uniforms[r]`, in [0, 1): tokens are put in descending order of their\n logits (of equals the first comes first), top_k of them are kept, then the fewest whose probability reaches top_p, and\n the token is taken at which the running sum of exp((z - max) / temperature) passes `uniforms[r]` times that of all that\n are kept."]
    pub sample: ::std::option::Option<
        unsafe extern "C" fn(
            tokens: *mut u32,
            best: *mut u64,
            logits: *const ::std::os::raw::c_void,
            uniforms: *const f32,
            sampling: *const engine_sampling,
            r: u32,
            v: u32,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " `to = from` in another type, rounded to nearest.  cast\n\n to (n) of `to_dtype`; from (n) of `from_dtype`."]
    pub cast: ::std::option::Option<
        unsafe extern "C" fn(
            to: *mut ::std::os::raw::c_void,
            from: *const ::std::os::raw::c_void,
            n: u64,
            to_dtype: engine_dtype,
            from_dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " Master weights as two halves: the copy that is computed with, and what it leaves out.  split_weights\n\n copy (n) bf16; lower (n) u16: the lower half of each weight's bits; from (n) f32. With `step` 0 the copy is rounded to\n nearest, ties to even. Else up or down at random, on average to the weight itself: an update is often smaller than half\n the distance of two numbers of bf16, and rounded to nearest it would be lost until many of them have added up. Element i\n of the copy is then the upper half of the weight's bits plus a number below 2^16 that follows from i and `step` alone\n (`rounding` in kernels/halves.cuh). A weight that bf16 holds exactly stays itself; so do infinities, and NaN stays NaN."]
    pub split_weights: ::std::option::Option<
        unsafe extern "C" fn(
            copy: *mut ::std::os::raw::c_void,
            lower: *mut ::std::os::raw::c_void,
            from: *const ::std::os::raw::c_void,
            n: u64,
            step: u64,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " The weights that `split_weights` has split, with the same `step`.  split_weights\n\n to (n) f32; copy (n) bf16; lower (n) u16. They are what they were, to the bit, but for those that lay halfway between two\n numbers of bf16 and were rounded up with step 0: these are the next f32 above in size."]
    pub join_weights: ::std::option::Option<
        unsafe extern "C" fn(
            to: *mut ::std::os::raw::c_void,
            copy: *const ::std::os::raw::c_void,
            lower: *const ::std::os::raw::c_void,
            n: u64,
            step: u64,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " Master weights as a file would give them back: encoded and decoded.  round_blocks\n\n to (n) of `dtype`; from (n) f32. Group g of the G groups covers `starts[g] .. starts[g + 1]` and is stored in the\n `engine_format` of `formats[g]`; its blocks are `blocks[g] .. blocks[g + 1]` of the `count` blocks of all, the last one\n of a norm being a part of a block. starts, blocks (G + 1) begin with 0 and end with n and `count`; formats (G)."]
    pub round_blocks: ::std::option::Option<
        unsafe extern "C" fn(
            to: *mut ::std::os::raw::c_void,
            from: *const ::std::os::raw::c_void,
            starts: *const u64,
            blocks: *const u64,
            formats: *const u32,
            groups: u32,
            count: u64,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " `y = x / (1 - p)` where an element is kept, else 0.  dropout\n\n y, x (n) T; y may be x. Element i is kept when 32 bits that follow from key (2), `product` and i alone are at least\n p * 2^32: the same on every device, in every type, and whenever it is computed. p in [0, 1)."]
    pub dropout: ::std::option::Option<
        unsafe extern "C" fn(
            y: *mut ::std::os::raw::c_void,
            x: *const ::std::os::raw::c_void,
            key: *const u32,
            n: u64,
            product: u32,
            p: f64,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " `sum += term`.  add\n\n sum, term (n) T."]
    pub add: ::std::option::Option<
        unsafe extern "C" fn(
            sum: *mut ::std::os::raw::c_void,
            term: *const ::std::os::raw::c_void,
            n: u64,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct engine_emulator_graph {
    _unused: [u8; 0],
}
unsafe extern "C" {
    #[doc = " The kernels as nvcc compiled them."]
    pub fn engine_kernels_cuda() -> *const engine_kernels;
    #[doc = " The kernels as the host's C++ compiler did."]
    pub fn engine_kernels_emulated() -> *const engine_kernels;
    #[doc = " Memory of the emulated device: NaN inside, guard bands around. Null when there is none. It belongs to the calling\n OS thread, as do the launches that use it."]
    pub fn engine_emulator_allocate(bytes: usize) -> *mut ::std::os::raw::c_void;
    #[doc = " Frees a buffer of the calling thread; ENGINE_OUT_OF_BOUNDS when its guard bands are damaged."]
    pub fn engine_emulator_free(buffer: *mut ::std::os::raw::c_void) -> engine_status;
    #[doc = " Chooses the order in which the calling thread's next launches run blocks and threads."]
    pub fn engine_emulator_seed(seed: u64);
    #[doc = " From now on the calling thread's launches are kept, with the arguments they have now, and not run."]
    pub fn engine_emulator_capture_begin();
    #[doc = " Keeps a call to `run(data)` in its place among the launches, until the graph is freed by `drop(data)`."]
    pub fn engine_emulator_capture_call(
        run: ::std::option::Option<unsafe extern "C" fn(data: *mut ::std::os::raw::c_void) -> engine_status>,
        drop: ::std::option::Option<unsafe extern "C" fn(data: *mut ::std::os::raw::c_void)>,
        data: *mut ::std::os::raw::c_void,
    );
    #[doc = " Ends the capture."]
    pub fn engine_emulator_capture_end() -> *mut engine_emulator_graph;
    #[doc = " Runs what was captured, in order, up to the first failure."]
    pub fn engine_emulator_graph_launch(graph: *const engine_emulator_graph) -> engine_status;
    pub fn engine_emulator_graph_free(graph: *mut engine_emulator_graph);
}
