// How a launcher fails: a code for the caller, a sentence for the person.
#pragma once

#include "engine.h"

#ifndef ENGINE_NAMESPACE
#error "the build names the namespace: two builds of one source live in one binary"
#endif

namespace ENGINE_NAMESPACE {

/// Keeps the message for `last_error` of this thread and returns `status`.
[[gnu::format(printf, 2, 3)]] engine_status fail(engine_status status, const char *format, ...);

/// The message of this thread's last failure; empty when there was none.
const char *last_error();

} // namespace ENGINE_NAMESPACE
