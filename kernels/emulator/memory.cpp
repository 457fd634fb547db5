// The emulator's memory: buffers with guard bands, and a check of every access that a kernel makes.
//
// Kernels are compiled with the compiler's -fsanitize=thread, which calls __tsan_read4 and the like at each access;
// the functions of that name are here in place of the sanitizer's own runtime. For every 2 bytes they remember who
// wrote last and two threads that read last, and when. Two accesses from different threads, one of them a write, must
// have something between them:
//   - of one warp: a barrier or a meeting of the warp;    - of one block: a barrier;    - of different blocks: a launch;
//   - of all: a count (atomicInc) of the one with a fence before it, and later one of the other on the same number with a fence
//     after it. What a thread accesses between its fence and its count is taken to be before the fence.
// Of more than two readers some are forgotten, so that a race with a read may be missed in one order of the threads
// and found in another; races between writes are always found. Accesses of one byte share their neighbour's fate.
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <sys/mman.h>
#include <unordered_set>
#include <vector>

#include "internal.h"

namespace emulator {
namespace {

constexpr size_t GUARD = 4096;
constexpr size_t GRANULE = 2;
constexpr uint8_t POISON = 0xff; // NaN in f32 and bf16

struct Cell {
    Moment write, read, other_read;
};

/// [begin, end) is the array; guard bands lie on both sides.
struct Region {
    uintptr_t begin, end;
    size_t guard;
    Cell *cells;
    bool shared;

    bool covers(uintptr_t address) const { return address + guard >= begin && address < end + guard; }
};

size_t cell_bytes(size_t bytes) { return (bytes / GRANULE + 1) * sizeof(Cell); }

/// From here on cells are mapped by themselves: they are 24 times their array, and most of a model's are never touched.
constexpr size_t MAPPED = 1 << 26;

/// Cells of an array, all zero; null when there is no room. Pages that no access ever touches take none.
Cell *new_cells(size_t bytes) {
    if (cell_bytes(bytes) < MAPPED) return static_cast<Cell *>(std::calloc(1, cell_bytes(bytes)));
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *fresh = mmap(nullptr, cell_bytes(bytes), PROT_READ | PROT_WRITE, flags, -1, 0);
    return fresh == MAP_FAILED ? nullptr : static_cast<Cell *>(fresh);
}

void free_cells(Cell *cells, size_t bytes) {
    if (cell_bytes(bytes) < MAPPED)
        std::free(cells);
    else
        munmap(cells, cell_bytes(bytes));
}

struct Shared {
    std::byte *arena = static_cast<std::byte *>(std::aligned_alloc(1024, ARENA));
    Cell *cells = new_cells(ARENA);
    size_t used = 0;
    std::vector<Region> arrays;

    static constexpr size_t ARENA = 256 * 1024;
    ~Shared() {
        std::free(arena);
        free_cells(cells, ARENA);
    }
};

thread_local std::vector<Region> buffers; // sorted by address
thread_local Shared shared;
thread_local uint32_t launch_first_block = 0;

/// Which buffer a page belongs to, guard bands included, if any: no page has two. Forgotten when buffers come and go.
struct Pages {
    struct Entry {
        uintptr_t page = 0;
        uint64_t version = 0;
        const Region *region = nullptr;
    };
    Entry entries[1024];
    uint64_t version = 1;

    Entry &at(uintptr_t page) { return entries[page % 1024]; }
};
thread_local Pages pages;

/// What launches touch of global memory, while somebody counts: each granule once per kernel for reads, once for writes.
struct Traffic {
    uint64_t read = 0, written = 0; // bytes
    std::unordered_set<uintptr_t> seen[2]; // granules that the running kernel has read, written

    void note(uintptr_t granule, bool write) {
        if (!write && seen[1].count(granule)) return; // a kernel finds in a cache what it has written
        if (seen[write].insert(granule).second) (write ? written : read) += GRANULE;
    }
};
thread_local Traffic traffic;
// Asked at every access: nothing that has to be constructed first.
__thread bool counting_traffic = false;
__thread uintptr_t arena = 0;

/// Looked at for every array after every launch: by the machine's fastest comparison, of the band with itself one byte on.
bool poisoned(uintptr_t begin, size_t bytes) {
    auto *band = reinterpret_cast<const uint8_t *>(begin);
    return bytes == 0 || (band[0] == POISON && std::memcmp(band, band + 1, bytes - 1) == 0);
}

bool guards_intact(const Region &region) {
    return poisoned(region.begin - region.guard, region.guard) && poisoned(region.end, region.guard);
}

void check_guards(const std::vector<Region> &regions) {
    for (const Region &region : regions)
        if (!guards_intact(region))
            fault(ENGINE_OUT_OF_BOUNDS, "something wrote beside an array of %zu bytes of %s memory",
                  size_t(region.end - region.begin), region.shared ? "shared" : "global");
}

const Region *find(uintptr_t address) {
    if (address - arena < Shared::ARENA) {
        for (const Region &array : shared.arrays)
            if (array.covers(address)) return &array;
        return nullptr;
    }
    Pages::Entry &known = pages.at(address / GUARD);
    if (known.page == address / GUARD && known.version == pages.version) return known.region;
    auto after = std::upper_bound(buffers.begin(), buffers.end(), address,
                                  [](uintptr_t a, const Region &region) { return a < region.begin - region.guard; });
    // Most accesses of all are to the threads' own stacks: that nothing is there is worth knowing, too.
    bool held = after != buffers.begin() && address / GUARD <= ((after - 1)->end + GUARD - 1) / GUARD;
    known = {address / GUARD, pages.version, held ? &*(after - 1) : nullptr};
    return known.region;
}

/// What the running launch has counted, and what the running block knows of others by that.
struct Counts {
    /// A fence of a thread, and the number on which it has counted since.
    struct Shown {
        const void *counter;
        Moment fence;
    };
    /// What another thread has shown, and the fence of the thread that found its count; block 0: not come yet.
    struct Seen {
        Moment shown;
        uint32_t by_thread;
        Moment fence;
    };
    std::vector<Shown> shown;   // by the launch
    std::vector<Seen> seen;     // by the running block
    std::vector<Moment> fences; // of the running block, the last of each thread
    uint32_t block = 0;

    /// What the block before knew is nothing to this one.
    void begin(uint32_t running) {
        if (block == running) return;
        block = running;
        seen.clear(), fences.clear();
    }
    /// Whether an access comes before one of the running block by a count.
    bool ordered(const Moment &earlier, const Moment &current) const {
        auto orders = [&](const Seen &s) {
            return s.fence.block != 0 && s.shown.block == earlier.block && before(earlier, s.shown) && before(s.fence, current);
        };
        return block == current.block && std::any_of(seen.begin(), seen.end(), orders);
    }
    /// Whether `a` comes before `b`, both of one block.
    static bool before(const Moment &a, const Moment &b) {
        if (a.barriers != b.barriers) return a.barriers < b.barriers;
        if (a.thread == b.thread) return a.warp_meetings <= b.warp_meetings;
        return a.thread / 32 == b.thread / 32 && a.warp_meetings < b.warp_meetings;
    }
};
thread_local Counts counts;

/// Whether an access is to the array itself; a fault when not.
bool within(const Region &region, uintptr_t begin, size_t bytes, bool write) {
    if (begin >= region.begin && begin + bytes <= region.end) return true;
    fault(ENGINE_OUT_OF_BOUNDS, "thread %u of block %u %s %zu bytes at offset %td of %zu bytes of %s memory", here->index,
          here->block.x, write ? "writes" : "reads", bytes, ptrdiff_t(begin - region.begin), size_t(region.end - region.begin),
          region.shared ? "shared" : "global");
    return false;
}

/// Whether `earlier` and `current` are of different threads with nothing in between that orders them.
[[gnu::always_inline]] inline bool unordered(const Moment &earlier, const Moment &current, bool in_shared) {
    if (earlier.block == 0) return false;
    if (earlier.block != current.block) {
        if (in_shared || earlier.block < launch_first_block) return false;
    } else {
        if (earlier.thread == current.thread || earlier.barriers != current.barriers) return false;
        bool same_warp = earlier.thread / 32 == current.thread / 32;
        if (same_warp && earlier.warp_meetings != current.warp_meetings) return false;
    }
    return !counts.ordered(earlier, current);
}

/// Whether the running fiber may touch the region: earlier kernels may still be at work on global memory; a fault when not.
bool is_settled(const Region &region, bool write) {
    if (region.shared || here->has_waited) return true;
    fault(ENGINE_MISSING_WAIT, "thread %u of block %u %s global memory before it waits for earlier kernels", here->index,
          here->block.x, write ? "writes" : "reads");
    return false;
}

void report_race(const Region &region, uintptr_t address, const Moment &first, const char *did, const char *does) {
    const Moment &current = now;
    fault(ENGINE_RACE, "race: thread %u of block %u %s byte %zu of %s memory, which thread %u of %s block %s", current.thread,
          here->block.x, does, size_t(address - region.begin), region.shared ? "shared" : "global", first.thread,
          first.block == current.block ? "the same" : "another", did);
}

void note_read(const Region &region, uintptr_t address, Cell &cell, const Moment &current) {
    if (unordered(cell.write, current, region.shared)) report_race(region, address, cell.write, "wrote", "reads");
    bool replace = !unordered(cell.read, current, region.shared);
    (replace ? cell.read : cell.other_read) = current;
}

void note_write(const Region &region, uintptr_t address, Cell &cell, const Moment &current) {
    if (unordered(cell.write, current, region.shared)) report_race(region, address, cell.write, "wrote", "writes");
    for (const Moment &read : {cell.read, cell.other_read})
        if (unordered(read, current, region.shared)) report_race(region, address, read, "read", "writes");
    cell.write = current;
}

} // namespace

/// An access to what is not the fiber's own.
[[gnu::noinline]] static void shared_access(uintptr_t begin, size_t bytes, bool write) {
    const Region *region = find(begin);
    if (!region || !within(*region, begin, bytes, write) || !is_settled(*region, write)) return;
    const Moment &current = now;
    size_t first = (begin - region->begin) / GRANULE, last = (begin + bytes - 1 - region->begin) / GRANULE;
    for (size_t i = first; i <= last; i++) {
        uintptr_t at = region->begin + i * GRANULE;
        write ? note_write(*region, at, region->cells[i], current) : note_read(*region, at, region->cells[i], current);
        if (counting_traffic && !region->shared) traffic.note(at, write);
    }
}

/// Most accesses of all end here: it has to be short.
[[gnu::always_inline]] static inline void check_access(const void *address, size_t bytes, bool write) {
    auto begin = reinterpret_cast<uintptr_t>(address);
    if (!here || bytes == 0 || begin - stack_begin < STACK_BYTES || begin - reinterpret_cast<uintptr_t>(here) < sizeof(Place))
        return;
    shared_access(begin, bytes, write);
}

void memory_access(const void *address, size_t bytes, bool write) { check_access(address, bytes, write); }

void memory_begin_launch(uint32_t block) {
    launch_first_block = block;
    traffic.seen[0].clear(), traffic.seen[1].clear();
    counts.shown.clear();
}

void fence() {
    const Moment &current = now;
    counts.begin(current.block);
    for (Counts::Seen &seen : counts.seen)
        if (seen.by_thread == current.thread && seen.fence.block == 0) seen.fence = current;
    std::erase_if(counts.fences, [&](const Moment &earlier) { return earlier.thread == current.thread; });
    counts.fences.push_back(current);
}

uint32_t count(uint32_t *counter, uint32_t most) {
    auto begin = reinterpret_cast<uintptr_t>(counter);
    const Region *region = find(begin);
    if (!region || !within(*region, begin, sizeof *counter, true) || !is_settled(*region, true)) return 0;
    const Moment &current = now;
    counts.begin(current.block);
    for (const Counts::Shown &shown : counts.shown)
        if (shown.counter == counter) counts.seen.push_back({shown.fence, current.thread, {}});
    for (const Moment &fence : counts.fences)
        if (fence.thread == current.thread) counts.shown.push_back({counter, fence});
    uint32_t before = *counter;
    *counter = before >= most ? 0 : before + 1;
    return before;
}

void shared_check_guards() { check_guards(shared.arrays); }

void buffers_check_guards() { check_guards(buffers); }

void shared_reset() {
    arena = reinterpret_cast<uintptr_t>(shared.arena);
    std::memset(shared.arena, POISON, shared.used + SHARED_GUARD);
    shared.used = 0;
    shared.arrays.clear();
}

void *shared_take(size_t bytes) {
    size_t begin = shared.used + SHARED_GUARD, taken = (bytes + SHARED_GUARD - 1) / SHARED_GUARD * SHARED_GUARD;
    if (begin + taken + SHARED_GUARD > Shared::ARENA) return nullptr;
    auto address = reinterpret_cast<uintptr_t>(shared.arena) + begin;
    std::memset(shared.arena + shared.used, POISON, taken + 2 * SHARED_GUARD);
    shared.arrays.push_back({address, address + bytes, SHARED_GUARD, shared.cells + begin / GRANULE, true});
    shared.used = begin + taken;
    return shared.arena + begin;
}

} // namespace emulator

using emulator::check_access;

extern "C" void *engine_emulator_allocate(size_t bytes) {
    using namespace emulator;
    size_t whole = (bytes + 2 * GUARD + GUARD - 1) / GUARD * GUARD;
    void *memory = std::aligned_alloc(GUARD, whole);
    if (!memory) return nullptr;
    Cell *cells = new_cells(bytes);
    if (!cells) {
        std::free(memory);
        return nullptr;
    }
    std::memset(memory, POISON, whole);
    auto begin = reinterpret_cast<uintptr_t>(memory) + GUARD;
    Region region{begin, begin + bytes, GUARD, cells, false};
    auto after = std::find_if(buffers.begin(), buffers.end(), [&](const Region &b) { return b.begin > begin; });
    buffers.insert(after, region);
    pages.version++;
    return reinterpret_cast<void *>(begin);
}

extern "C" engine_status engine_emulator_free(void *buffer) {
    using namespace emulator;
    auto begin = reinterpret_cast<uintptr_t>(buffer);
    auto found = std::find_if(buffers.begin(), buffers.end(), [&](const Region &b) { return b.begin == begin; });
    if (found == buffers.end()) return ENGINE_NAMESPACE::fail(ENGINE_BAD_ARGUMENT, "no buffer of this thread");
    bool intact = guards_intact(*found);
    free_cells(found->cells, found->end - found->begin);
    // What still reads it, say a captured graph, finds NaN.
    std::memset(buffer, POISON, found->end - found->begin);
    std::free(reinterpret_cast<void *>(begin - GUARD));
    buffers.erase(found);
    pages.version++;
    return intact ? ENGINE_OK : ENGINE_NAMESPACE::fail(ENGINE_OUT_OF_BOUNDS, "the guard bands of a buffer are damaged");
}

extern "C" void engine_emulator_count_traffic(bool counting) {
    emulator::traffic = {};
    emulator::counting_traffic = counting;
}

extern "C" void engine_emulator_traffic(uint64_t *read, uint64_t *written) {
    *read = emulator::traffic.read, *written = emulator::traffic.written;
}

// What -fsanitize=thread calls.
extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void *, void *) {}
void __tsan_vptr_read(void *) {}
void __tsan_read_range(void *address, size_t bytes) { check_access(address, bytes, false); }
void __tsan_write_range(void *address, size_t bytes) { check_access(address, bytes, true); }

#define ACCESSES(bytes)                                                                                     \
    void __tsan_read##bytes(void *address) { check_access(address, bytes, false); }                         \
    void __tsan_write##bytes(void *address) { check_access(address, bytes, true); }                         \
    void __tsan_unaligned_read##bytes(void *address) { check_access(address, bytes, false); }               \
    void __tsan_unaligned_write##bytes(void *address) { check_access(address, bytes, true); }               \
    void __tsan_volatile_read##bytes(void *address) { check_access(address, bytes, false); }                \
    void __tsan_volatile_write##bytes(void *address) { check_access(address, bytes, true); }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

void *__tsan_memcpy(void *to, const void *from, size_t bytes) {
    check_access(from, bytes, false);
    check_access(to, bytes, true);
    return std::memcpy(to, from, bytes);
}
void *__tsan_memmove(void *to, const void *from, size_t bytes) {
    check_access(from, bytes, false);
    check_access(to, bytes, true);
    return std::memmove(to, from, bytes);
}
void *__tsan_memset(void *to, int value, size_t bytes) {
    check_access(to, bytes, true);
    return std::memset(to, value, bytes);
}
}
