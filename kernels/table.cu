// The kernel table of this build. A launcher whose definition differs from its declaration in engine.h does not link.
#include <cstdarg>
#include <cstdio>
#include <type_traits>

#include "platform.cuh"

namespace ENGINE_NAMESPACE {

#define DECLARE(launcher) std::remove_pointer_t<decltype(engine_kernels::launcher)> launcher

DECLARE(rmsnorm_forward);
DECLARE(rmsnorm_backward);
DECLARE(rmsnorm_pair_forward);
DECLARE(rmsnorm_pair_backward);
DECLARE(sum_parts);
DECLARE(weight_gradients);
DECLARE(rope_forward);
DECLARE(rope_backward);
DECLARE(attention_forward);
DECLARE(attention_backward);
DECLARE(attention_decode);
DECLARE(rope_attention_decode);
DECLARE(geglu_forward);
DECLARE(geglu_backward);
DECLARE(linear_few_rows);
DECLARE(linear_geglu_forward);
DECLARE(linear_geglu_backward);
DECLARE(embedding_forward);
DECLARE(embedding_backward);
DECLARE(clip_factor);
DECLARE(adamw);
DECLARE(cross_entropy);
DECLARE(sample);
DECLARE(cast);
DECLARE(split_weights);
DECLARE(join_weights);
DECLARE(round_blocks);
DECLARE(dropout);
DECLARE(add);

namespace {
thread_local char message[512] = "";
}

engine_status fail(engine_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return status;
}

const char *last_error() { return message; }

void allow_programmatic_launch([[maybe_unused]] bool allowed) {
#ifdef __CUDACC__
    programmatic_launch_is_allowed = allowed;
#endif
}

namespace {

const engine_kernels table = {
#ifdef __CUDACC__
    .device = "cuda",
#else
    .device = "emulated",
#endif
    .last_error = last_error,
    .allow_programmatic_launch = allow_programmatic_launch,
    .rmsnorm_forward = rmsnorm_forward,
    .rmsnorm_backward = rmsnorm_backward,
    .rmsnorm_pair_forward = rmsnorm_pair_forward,
    .rmsnorm_pair_backward = rmsnorm_pair_backward,
    .sum_parts = sum_parts,
    .weight_gradients = weight_gradients,
    .rope_forward = rope_forward,
    .rope_backward = rope_backward,
    .attention_forward = attention_forward,
    .attention_backward = attention_backward,
    .attention_decode = attention_decode,
    .rope_attention_decode = rope_attention_decode,
    .geglu_forward = geglu_forward,
    .geglu_backward = geglu_backward,
    .linear_few_rows = linear_few_rows,
    .linear_geglu_forward = linear_geglu_forward,
    .linear_geglu_backward = linear_geglu_backward,
    .embedding_forward = embedding_forward,
    .embedding_backward = embedding_backward,
    .clip_factor = clip_factor,
    .adamw = adamw,
    .cross_entropy = cross_entropy,
    .sample = sample,
    .cast = cast,
    .split_weights = split_weights,
    .join_weights = join_weights,
    .round_blocks = round_blocks,
    .dropout = dropout,
    .add = add,
};

} // namespace
} // namespace ENGINE_NAMESPACE

#ifdef __CUDACC__
const engine_kernels *engine_kernels_cuda() { return &ENGINE_NAMESPACE::table; }
#else
const engine_kernels *engine_kernels_emulated() { return &ENGINE_NAMESPACE::table; }
#endif
