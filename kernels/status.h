// How a launcher fails: a code for the caller, a sentence for the person.
#pragma once

#include "engine.h"

#ifndef ENGINE_NAMESPACE
#error "the build names the namespace: two builds of one source live in one binary"
#endif

namespace ENGINE_NAMESPACE {

/// Keeps the message for `last_error` of this thread and returns `status`.
[[gnu::format(printf, 2, 3)]] engine_status fail(engine_status status, const char *format, ...);

/// For a launch with more shared memory than a block of the device has.
inline engine_status too_much_shared_memory(const char *kernel, size_t bytes, size_t most) {
    return fail(ENGINE_LAUNCH_FAILED, "`%s` needs %zu bytes of shared memory for a block; this GPU has %zu", kernel, bytes,
                most);
}

/// The message of this thread's last failure; empty when there was none.
const char *last_error();

/// See `engine_kernels`.
void allow_programmatic_launch(bool allowed);

} // namespace ENGINE_NAMESPACE
