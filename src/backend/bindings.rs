//! The kernel table of `kernels/engine.h` in Rust, by bindgen (scripts/generate-bindings). Not to be edited.
#![allow(clippy::type_complexity, missing_docs, non_camel_case_types)]

#[repr(u32)]
#[doc = " Element type of activations and compute weights."]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub enum engine_dtype {
    ENGINE_F32 = 0,
    ENGINE_BF16 = 1,
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
    #[doc = " A thread ended with an asynchronous copy that it never waited for."]
    ENGINE_MISSING_WAIT = 6,
}
#[doc = " A cudaStream_t; ignored by the emulator, which runs everything at once."]
pub type engine_stream = *mut ::std::os::raw::c_void;
#[doc = " What one AdamW update needs beside the tensors. In device memory, so that a captured graph can be replayed."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct engine_adamw_step {
    pub learning_rate: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    #[doc = " learning_rate / (1 - beta1^t) for update t, from 1"]
    pub rate: f32,
    #[doc = " 1 / sqrt(1 - beta2^t)"]
    pub root: f32,
}
#[doc = " The launchers of one build."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct engine_kernels {
    #[doc = " `cuda` or `emulated`."]
    pub device: *const ::std::os::raw::c_char,
    #[doc = " What went wrong in the calling thread's last launch that failed."]
    pub last_error: ::std::option::Option<unsafe extern "C" fn() -> *const ::std::os::raw::c_char>,
    #[doc = " `y = [h +] x * rstd * (1 + weight),  rstd = 1 / sqrt(mean(x^2) + eps)`.  kernels/rmsnorm.cu\n\n y, h, x (N, D) T; weight (D) T; rstd (N) f32. `h` may be null: no residual is added."]
    pub rmsnorm_forward: ::std::option::Option<
        unsafe extern "C" fn(
            y: *mut ::std::os::raw::c_void,
            rstd: *mut f32,
            h: *const ::std::os::raw::c_void,
            x: *const ::std::os::raw::c_void,
            weight: *const ::std::os::raw::c_void,
            n: u32,
            d: u32,
            eps: f32,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " `dx = rstd * (g - x * rstd^2 * mean(g * x)), g = dy * (1 + weight);  dweight += sum_N dy * x * rstd`\n\n dx, dy, x (N, D) T; weight (D) T; dweight (D) f32; rstd (N) f32; scratch (ceil(N / 64), D) f32. The gradient of\n a residual is dy itself."]
    pub rmsnorm_backward: ::std::option::Option<
        unsafe extern "C" fn(
            dx: *mut ::std::os::raw::c_void,
            dweight: *mut f32,
            scratch: *mut f32,
            rstd: *const f32,
            dy: *const ::std::os::raw::c_void,
            x: *const ::std::os::raw::c_void,
            weight: *const ::std::os::raw::c_void,
            n: u32,
            d: u32,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " `y = gelu_tanh(gate) * up`.  kernels/geglu.cu\n\n x (N, 2F) T, rows of gate then up; y (N, F) T."]
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
    #[doc = " `h = scale * weight[ids]`.  kernels/embedding.cu\n\n h (N, D) T; weight (V, D) T; ids (N), each below V."]
    pub embedding_forward: ::std::option::Option<
        unsafe extern "C" fn(
            h: *mut ::std::os::raw::c_void,
            weight: *const ::std::os::raw::c_void,
            ids: *const u32,
            n: u32,
            d: u32,
            scale: f32,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " `dweight[id] += scale * sum of dh over the rows that have this id`, rows in order\n\n dweight (V, D) f32; dh (N, D) T; ids (N). `rows` (N) are the rows of the batch sorted by id, rows of one id in\n ascending order; `starts` (U + 1) is where each of the U distinct ids begins in `rows`, and N."]
    pub embedding_backward: ::std::option::Option<
        unsafe extern "C" fn(
            dweight: *mut f32,
            dh: *const ::std::os::raw::c_void,
            ids: *const u32,
            rows: *const u32,
            starts: *const u32,
            u: u32,
            d: u32,
            scale: f32,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " `norm = sqrt(sum g^2);  factor = min(1, max_norm / (norm + 1e-6))`, 1 when max_norm is 0.  kernels/clip.cu\n\n norm, factor: one f32 each; gradients (n) f32; scratch (ceil(n / 16384)) f32."]
    pub clip_factor: ::std::option::Option<
        unsafe extern "C" fn(
            norm: *mut f32,
            factor: *mut f32,
            scratch: *mut f32,
            gradients: *const f32,
            n: u64,
            max_norm: f32,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " One AdamW update of every parameter; gradients become 0.  kernels/adamw.cu\n\n parameters, m, v, gradients (n) f32; copy (n) bf16 or null; factor: one f32, on the gradients; step: one struct.\n Group g of the G groups covers `starts[g] .. starts[g + 1]` and decays by `learning_rate * decays[g]`; starts\n (G + 1) begins with 0 and ends with n; decays (G) f32."]
    pub adamw: ::std::option::Option<
        unsafe extern "C" fn(
            parameters: *mut f32,
            m: *mut f32,
            v: *mut f32,
            gradients: *mut f32,
            copy: *mut ::std::os::raw::c_void,
            factor: *const f32,
            step: *const engine_adamw_step,
            starts: *const u64,
            decays: *const f32,
            groups: u32,
            n: u64,
            stream: engine_stream,
        ) -> engine_status,
    >,
    #[doc = " Loss of a chunk of logits, which become their gradient.  kernels/cross_entropy.cu\n\n logits (R, V) T; sums (4) f64, added to: w * loss, w * entropy in nats, w where the target has the largest logit\n (the first of equals), w. Targets of row r are `starts[r] .. starts[r + 1]`; starts (R + 1); ids (M), distinct\n within a row; weights (M) f32; target_logits (M) f32 and row_sums (R, 4) f32 are scratch. Gradients are those of\n `*scale` * sum of w * loss; a null `scale` leaves the logits alone."]
    pub cross_entropy: ::std::option::Option<
        unsafe extern "C" fn(
            logits: *mut ::std::os::raw::c_void,
            sums: *mut f64,
            target_logits: *mut f32,
            row_sums: *mut f32,
            starts: *const u32,
            ids: *const u32,
            weights: *const f32,
            scale: *const f32,
            r: u32,
            v: u32,
            dtype: engine_dtype,
            stream: engine_stream,
        ) -> engine_status,
    >,
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
}
