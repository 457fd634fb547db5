// The launchers of the emulator behind a queue: what a launch would run now is handed on as a graph, which its stream runs
// in its turn, or somebody looks at.
//
// Only tests and benches link this file: tests/driver, whose streams are those of a driver that stands in for NVIDIA's, and the bill of a
// step (benches/shared/bill.rs).
#include <tuple>

#include "internal.h"

extern "C" {

/// Queues the kernels of one launch, which are the callee's from then on; null, or why not.
typedef const char *(*engine_emulator_enqueue)(engine_stream stream, engine_emulator_graph *kernels, const char *launcher);

/// The table whose launchers hand their kernels to `enqueue`.
const engine_kernels *engine_emulator_queued(engine_emulator_enqueue enqueue);

/// This thread's launches are for a chip on which a block has so much shared memory.
void engine_emulator_shared_bytes(size_t bytes);
}

namespace ENGINE_NAMESPACE {
namespace {

engine_emulator_enqueue enqueue_launch;

/// A launcher of the table. `name` is one of the table's, for messages.
template <auto launcher, const char *name> struct Queued;

template <class... Arguments, engine_status (*engine_kernels::*launcher)(Arguments...), const char *name>
struct Queued<launcher, name> {
    static engine_status call(Arguments... arguments) {
        engine_emulator_capture_begin();
        engine_status status = (engine_kernels_emulated()->*launcher)(arguments...);
        engine_emulator_graph *kernels = engine_emulator_capture_end();
        if (status != ENGINE_OK) {
            engine_emulator_graph_free(kernels);
            return status;
        }
        engine_stream stream = std::get<sizeof...(Arguments) - 1>(std::tuple(arguments...));
        const char *refused = enqueue_launch(stream, kernels, name);
        return refused ? fail(ENGINE_LAUNCH_FAILED, "%s", refused) : ENGINE_OK;
    }
};

#define NAME(launcher) constexpr char launcher##_name[] = #launcher
#define QUEUED(launcher) .launcher = Queued<&engine_kernels::launcher, launcher##_name>::call

NAME(rmsnorm_forward);
NAME(rmsnorm_backward);
NAME(rmsnorm_pair_forward);
NAME(rmsnorm_pair_backward);
NAME(sum_parts);
NAME(weight_gradients);
NAME(rope_forward);
NAME(rope_backward);
NAME(attention_forward);
NAME(attention_backward);
NAME(attention_decode);
NAME(rope_attention_decode);
NAME(geglu_forward);
NAME(geglu_backward);
NAME(linear_few_rows);
NAME(linear_geglu_forward);
NAME(linear_geglu_backward);
NAME(embedding_forward);
NAME(embedding_backward);
NAME(clip_factor);
NAME(adamw);
NAME(cross_entropy);
NAME(sample);
NAME(cast);
NAME(split_weights);
NAME(join_weights);
NAME(round_blocks);
NAME(dropout);
NAME(add);

const engine_kernels table = {
    .device = "emulated",
    .last_error = last_error,
    .allow_programmatic_launch = allow_programmatic_launch,
    QUEUED(rmsnorm_forward),
    QUEUED(rmsnorm_backward),
    QUEUED(rmsnorm_pair_forward),
    QUEUED(rmsnorm_pair_backward),
    QUEUED(sum_parts),
    QUEUED(weight_gradients),
    QUEUED(rope_forward),
    QUEUED(rope_backward),
    QUEUED(attention_forward),
    QUEUED(attention_backward),
    QUEUED(attention_decode),
    QUEUED(rope_attention_decode),
    QUEUED(geglu_forward),
    QUEUED(geglu_backward),
    QUEUED(linear_few_rows),
    QUEUED(linear_geglu_forward),
    QUEUED(linear_geglu_backward),
    QUEUED(embedding_forward),
    QUEUED(embedding_backward),
    QUEUED(clip_factor),
    QUEUED(adamw),
    QUEUED(cross_entropy),
    QUEUED(sample),
    QUEUED(cast),
    QUEUED(split_weights),
    QUEUED(join_weights),
    QUEUED(round_blocks),
    QUEUED(dropout),
    QUEUED(add),
};

} // namespace
} // namespace ENGINE_NAMESPACE

const engine_kernels *engine_emulator_queued(engine_emulator_enqueue enqueue) {
    ENGINE_NAMESPACE::enqueue_launch = enqueue;
    return &ENGINE_NAMESPACE::table;
}

void engine_emulator_shared_bytes(size_t bytes) { emulator::shared_bytes = bytes; }
