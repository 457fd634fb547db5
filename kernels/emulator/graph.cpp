// Captured launches: the emulator's stand-in for CUDA graphs. A launch is kept with copies of its arguments, so that
// a replay reads what lies in memory then, through the addresses of the capture.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "internal.h"

/// What was captured, in order.
struct engine_emulator_graph {
    struct Node {
        emulator::Launch launch;
        std::unique_ptr<void, void (*)(void *)> call; // arguments of a launch, or data of a call; null has nothing to drop
        engine_status (*run)(void *data); // of a call; null for a launch
    };
    std::vector<Node> nodes;
};

namespace emulator {
namespace {

// What is being captured; null when nothing is.
thread_local std::unique_ptr<engine_emulator_graph> capture;

/// No status can come back from where this is asked.
void require_capture(const char *function) {
    if (capture) return;
    std::fprintf(stderr, "%s: no capture has begun on this thread\n", function);
    std::abort();
}

} // namespace

bool capturing() { return capture != nullptr; }

engine_status capture_launch(const Launch &launch, void *call, void (*drop)(void *)) {
    capture->nodes.push_back({launch, {call, drop}, nullptr});
    return check_launch(launch);
}

} // namespace emulator

using emulator::capture;

extern "C" {

/// Told of a kernel: its name, how many blocks it has and how much dynamic shared memory each, and the words of its arguments,
/// addresses and others.
typedef void (*engine_emulator_take_kernel)(void *to, const char *kernel, uint64_t blocks, uint64_t shared_bytes,
                                            const uint64_t *words, size_t count);

/// Tells of the kernels of a graph, in order.

void engine_emulator_capture_begin() {
    // One that was given up in the middle goes.
    capture = std::make_unique<engine_emulator_graph>();
}

void engine_emulator_capture_call(engine_status (*run)(void *), void (*drop)(void *), void *data) {
    emulator::require_capture("engine_emulator_capture_call");
    capture->nodes.push_back({{}, {data, drop}, run});
}

engine_emulator_graph *engine_emulator_capture_end() {
    emulator::require_capture("engine_emulator_capture_end");
    return capture.release();
}

engine_status engine_emulator_graph_launch(const engine_emulator_graph *graph) {
    for (const auto &node : graph->nodes) {
        engine_status status = node.run ? node.run(node.call.get()) : emulator::run_launch(node.launch, node.call.get());
        if (status != ENGINE_OK) return status;
    }
    return ENGINE_OK;
}

void engine_emulator_graph_kernels(const engine_emulator_graph *graph, engine_emulator_take_kernel take, void *to) {
    for (const auto &node : graph->nodes) {
        if (node.run) continue;
        const emulator::Launch &launch = node.launch;
        std::vector<uint64_t> words(launch.call_bytes / sizeof(uint64_t));
        std::memcpy(words.data(), node.call.get(), words.size() * sizeof(uint64_t));
        uint64_t blocks = uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
        take(to, launch.kernel, blocks, launch.shared_bytes, words.data(), words.size());
    }
}

void engine_emulator_graph_free(engine_emulator_graph *graph) { delete graph; }

} // extern "C"
