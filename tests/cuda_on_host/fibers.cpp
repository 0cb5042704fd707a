/* fibers.cpp - a kernel's blocks, one after the other; the threads of a block as fibers, which change over at barriers and at a
 * warp's operations only. */
#include "tests/cuda_on_host/fake.h"

#include <numeric>
#include <string.h>
#include <sys/mman.h>
#include <vector>

uint3 fake_thread_index, fake_block_index;
dim3 fake_block_dim, fake_grid_dim;

namespace
{

constexpr size_t stack_bytes = 256 << 10, page = 4096, shared_most = 227 << 10;

enum state { UNSTARTED, READY, AT_BARRIER, AT_WARP, DONE };

struct thread_state {
    enum state state;
    int fiber;
    const char *file; /* where it waits */
    int line;
    int from; /* the lane whose value it wants */
    uint64_t given, got;
};

/* The operation that a warp's lanes are at. */
struct warp_state {
    unsigned mask, come; /* nobody has come: none */
    const char *file;
    int line;
};

struct block_state {
    const std::function<void()> *body;
    std::vector<thread_state> threads;
    std::vector<warp_state> warps;
    std::vector<int> unstarted, ready; /* numbers of threads; taken from the end */
    int current, n_done, n_at_barrier;
} block;

std::vector<void *> stack_pointers; /* of fibers that are not running */
std::vector<int> free_fibers;
void *scheduler;
int running_fiber;
unsigned char *shared_end; /* the page behind it is out of reach */
unsigned char *shared;

} // namespace

extern "C" void fake_switch(void **save, void *load);
#if defined(__x86_64__)
asm(".text\n"
    ".globl fake_switch\n"
    ".type fake_switch,@function\n"
    "fake_switch:\n"
    "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
    "movq %rsp, (%rdi)\n"
    "movq %rsi, %rsp\n"
    "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n"
    "ret\n"
    ".size fake_switch,.-fake_switch\n");
#else
#error "cuda_on_host changes stacks in x86-64 assembly: write fake_switch for this machine"
#endif

static void set_current(int thread)
{
    unsigned n = (unsigned)thread;
    block.current = thread;
    fake_thread_index = {n % fake_block_dim.x, n / fake_block_dim.x % fake_block_dim.y,
                         n / fake_block_dim.x / fake_block_dim.y};
}

/* Threads run to their end one after the other on one fiber, until one has to wait. */
static void fiber_main()
{
    for (;;) {
        (*block.body)();
        block.threads[(size_t)block.current].state = DONE;
        block.n_done++;
        if (!block.unstarted.empty() && fake_draw(2) == 0) {
            int next = block.unstarted.back();
            block.unstarted.pop_back();
            block.threads[(size_t)next].fiber = running_fiber;
            set_current(next);
            continue;
        }
        free_fibers.push_back(running_fiber);
        fake_switch(&stack_pointers[(size_t)running_fiber], scheduler);
    }
}

static int new_fiber()
{
    if (!free_fibers.empty()) {
        int fiber = free_fibers.back();
        free_fibers.pop_back();
        return fiber;
    }
    char *memory = (char *)mmap(NULL, stack_bytes, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) fake_die("out of memory for stacks");
    /* Stacks that all began at one place within a page would share few of the cache's lines. */
    void **top = (void **)(memory + stack_bytes - stack_pointers.size() % 61 * 320);
    top[-1] = NULL;
    top[-2] = (void *)fiber_main; /* six registers lie below it */
    stack_pointers.push_back(top - 8);
    return (int)stack_pointers.size() - 1;
}

static void wait_in_scheduler()
{
    fake_switch(&stack_pointers[(size_t)running_fiber], scheduler);
}

static void resume(int thread)
{
    set_current(thread);
    running_fiber = block.threads[(size_t)thread].fiber;
    fake_switch(&scheduler, stack_pointers[(size_t)running_fiber]);
}

static int take(std::vector<int> &from)
{
    size_t i = from.size() - 1 - (size_t)fake_draw(from.size());
    int thread = from[i];
    from.erase(from.begin() + (long)i);
    return thread;
}

static void release_barrier()
{
    const thread_state *first = NULL;
    for (size_t n = block.threads.size(); n-- > 0;) {
        thread_state *t = &block.threads[n];
        if (t->state == DONE) continue;
        if (t->state == AT_WARP)
            fake_die("%s:%d: thread %zu waits for lanes of its warp that do not come", t->file, t->line, n);
        if (first && (first->line != t->line || strcmp(first->file, t->file) != 0))
            fake_die("%s:%d and %s:%d: threads of a block wait at different barriers", first->file,
                     first->line, t->file, t->line);
        first = t;
        t->state = READY;
        block.ready.push_back((int)n);
    }
    block.n_at_barrier = 0;
}

static void run_block()
{
    size_t n = (size_t)fake_block_dim.x * fake_block_dim.y * fake_block_dim.z;
    block.threads.assign(n, thread_state());
    block.warps.assign((n + 31) / 32, warp_state());
    block.unstarted.resize(n);
    for (size_t i = 0; i < n; i++) block.unstarted[i] = (int)(n - 1 - i);
    for (size_t i = n; i-- > 1;) std::swap(block.unstarted[i], block.unstarted[i - (size_t)fake_draw(i + 1)]);
    block.ready.clear();
    block.n_done = block.n_at_barrier = 0;
    while (block.n_done < (int)n) {
        if (!block.ready.empty() && (block.unstarted.empty() || fake_draw(2))) {
            resume(take(block.ready));
        } else if (!block.unstarted.empty()) {
            int thread = block.unstarted.back();
            block.unstarted.pop_back();
            block.threads[(size_t)thread].fiber = new_fiber();
            resume(thread);
        } else {
            release_barrier();
        }
    }
}

void fake_sync_threads(const char *file, int line)
{
    thread_state *t = &block.threads[(size_t)block.current];
    t->state = AT_BARRIER;
    t->file = file;
    t->line = line;
    block.n_at_barrier++;
    wait_in_scheduler();
}

int fake_lane()
{
    return block.current % 32;
}

/* The last lane that comes hands out the values and frees the others. */
uint64_t fake_shuffle(unsigned mask, uint64_t value, int from, const char *file, int line)
{
    int first = block.current / 32 * 32, lane = fake_lane();
    thread_state *lanes = &block.threads[(size_t)first], *me = &lanes[lane];
    warp_state *warp = &block.warps[(size_t)first / 32];
    if (!(mask >> lane & 1) || from < 0 || from > 31 || !(mask >> from & 1))
        fake_die("%s:%d: lane %d or %d is not in the mask %08x", file, line, lane, from, mask);
    if (warp->come == 0) {
        *warp = (warp_state){mask, 0, file, line};
    } else if (warp->line != line || warp->mask != mask) {
        fake_die("%s:%d and %d: lanes of a warp are at different operations", file, line, warp->line);
    }
    *me = (thread_state){AT_WARP, me->fiber, file, line, from, value, 0};
    warp->come |= 1u << lane;
    if (warp->come != mask) {
        wait_in_scheduler();
        return me->got;
    }
    warp->come = 0;
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1)) continue;
        lanes[i].got = lanes[lanes[i].from].given;
        lanes[i].state = READY;
        if (i != lane) block.ready.push_back(first + i);
    }
    return me->got;
}

void *fake_shared_memory()
{
    return shared;
}

static void prepare_shared(size_t bytes)
{
    if (!shared_end) {
        size_t room = (shared_most + page - 1) / page * page;
        unsigned char *memory = (unsigned char *)mmap(NULL, room + page, PROT_READ | PROT_WRITE,
                                                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED || mprotect(memory + room, page, PROT_NONE) != 0)
            fake_die("out of memory for shared memory");
        shared_end = memory + room;
    }
    shared = shared_end - (bytes + 15) / 16 * 16;
    memset(shared, 0xff, (size_t)(shared_end - shared));
}

void fake_run_grid(const std::function<void()> &thread, dim3 grid, dim3 threads, size_t shared_bytes)
{
    uint64_t n = (uint64_t)grid.x * grid.y * grid.z;
    block.body = &thread;
    fake_block_dim = threads;
    fake_grid_dim = grid;
    /* n / 2 transpositions would shuffle too little of few blocks, and a list of all is too long of many: a stride instead. */
    uint64_t first = fake_draw(n), stride = 1 + fake_draw(n);
    while (std::gcd(stride, n) != 1) stride++;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t b = (uint64_t)(((unsigned __int128)i * stride + first) % n);
        fake_block_index = {(unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y),
                            (unsigned)(b / grid.x / grid.y)};
        prepare_shared(shared_bytes);
        run_block();
    }
}
