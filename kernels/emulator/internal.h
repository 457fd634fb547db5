// What the emulator's two halves tell each other: the scheduler (scheduler.cpp) and the memory checks (memory.cpp).
#pragma once

#include "emulator.h"

namespace emulator {

/// When an access happened, as far as the order between threads goes.
struct Moment {
    uint32_t block = 0;         // counts every block that was ever run by this OS thread; 0: never
    uint32_t barriers = 0;      // passed by the block
    uint32_t warp_meetings = 0; // of the thread's warp
    uint32_t thread = 0;
};

/// The running fiber's moment. It changes only while the fiber is not running.
extern constinit thread_local Moment now;

/// Of a fiber. Some lines more than a power of 2: the tops of all stacks would share a few sets of the cache.
constexpr size_t STACK_BYTES = 64 * 1024 + 5 * 64;
/// The running fiber's stack, which is its own: most accesses are to it, and need no check.
extern __thread uintptr_t stack_begin;

/// Notes the first fault of a launch; later ones are consequences. Ends nothing by itself.
[[gnu::format(printf, 2, 3)]] void fault(engine_status status, const char *format, ...);

/// An error for a launch that no GPU would take, whatever the kernel does.
engine_status check_launch(const Launch &launch);

/// Shared memory of a block: arrays between guard bands in one arena.
constexpr size_t SHARED_BYTES = 99 * 1024; // what a block has on the smallest chip that kernels are compiled for
/// What a block has on the chip that this thread's launches are for.
inline thread_local size_t shared_bytes = SHARED_BYTES;
constexpr size_t SHARED_GUARD = 256;
void shared_reset();
/// A fresh NaN-filled array; null when the block's shared memory is used up.
void *shared_take(size_t bytes);

/// Accesses from now on belong to a new launch, whose first block is `block`.
void memory_begin_launch(uint32_t block);
/// Looks at every guard band of the block's shared arrays; of this OS thread's buffers. What the check of each access
/// sees comes first: this finds what was written by code that the compiler did not instrument.
void shared_check_guards();
void buffers_check_guards();
/// Checks and notes an access of the running fiber.
void memory_access(const void *address, size_t bytes, bool write);

} // namespace emulator
