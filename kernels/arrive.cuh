// arrive: who is the last of several blocks, or warps, to have written, and may read what all of them wrote
//
// Fences    a barrier joins the writers; one of them has a fence, counts, and has a fence again; a barrier, and they read. The
//           first fence shows what the writers of the barrier wrote to whoever sees the count, the second keeps the reads behind it
// Counter   a number in global memory that is 0 at first. The last one sets it to 0 again, for the next launch
// Order     who is the last is chance: what it computes must not follow from who it is
#pragma once

#include "platform.cuh"

namespace ENGINE_NAMESPACE {

/// Counts one of `all` in; whether it is the last.
__device__ inline bool count_in(uint32_t *counter, uint32_t all) {
    __threadfence();
    bool last = atomicInc(counter, all - 1) == all - 1;
    __threadfence();
    return last;
}

/// Whether the block is the last of `all` blocks to come here, in every thread.
__device__ inline bool last_block(uint32_t *counter, uint32_t all) {
    SHARED(uint32_t, last, 1);
    __syncthreads(); // all of the block have written
    if (threadIdx.x == 0) last[0] = count_in(counter, all);
    __syncthreads();
    return last[0];
}

/// Whether the warp is the last of `all` warps to come here, in every lane.
__device__ inline bool last_warp(uint32_t *counter, uint32_t all) {
    bool last = false;
    __syncwarp(); // all of the warp have written
    if (threadIdx.x % WARP == 0) last = count_in(counter, all);
    __syncwarp();
    return __any_sync(~0u, last);
}

} // namespace ENGINE_NAMESPACE
