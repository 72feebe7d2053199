// CUDA's builtins on a CPU, so that g++ compiles and runs a .cu file as it is.
//
// A block's threads are fibers of one OS thread. Between two barriers they run one after another,
// each to its next barrier, in an order that changes every time: what one thread needs of another
// without a barrier between them is then not there yet, or already overwritten. Shared memory
// holds NaN when a block starts.

#pragma once
#include <math.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#define __shared__ static  // with the red zones of other globals
#else
#define __shared__ static __attribute__((section("cuda_shared")))
extern char shared_start[] __asm__("__start_cuda_shared")
    __attribute__((weak, visibility("hidden")));
extern char shared_stop[] __asm__("__stop_cuda_shared")
    __attribute__((weak, visibility("hidden")));
#endif
#define __global__
#define __device__
#define __launch_bounds__(threads)

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

namespace shim {

enum Result { DONE = 0, WRONG_ARGUMENTS = 1, DIVERGENT_BARRIER = 2 };

constexpr size_t STACK = 128 << 10;

// Tells AddressSanitizer of a change of stacks; nothing where it is not compiled in.
struct Stack {
    const void* bottom = nullptr;
    size_t size = 0;
    void* fake = nullptr;

    void leave_for([[maybe_unused]] const Stack& other, [[maybe_unused]] bool forever = false) {
#ifdef __SANITIZE_ADDRESS__
        __sanitizer_start_switch_fiber(forever ? nullptr : &fake, other.bottom, other.size);
#endif
    }
    void arrive_from([[maybe_unused]] Stack& other) {
#ifdef __SANITIZE_ADDRESS__
        __sanitizer_finish_switch_fiber(fake, &other.bottom, &other.size);
#endif
    }
};

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> memory{new char[STACK]};
    Stack stack;
    Index thread;
    bool done;
};

static ucontext_t scheduler;
static Stack scheduler_stack;
static Fiber* running;
static const std::function<void()>* body;
static std::vector<Fiber> fibers;  // of a block; kept, as stacks are dear

inline void wait() {
    Fiber* self = running;
    self->stack.leave_for(scheduler_stack);
    swapcontext(&self->context, &scheduler);
    self->stack.arrive_from(scheduler_stack);
}

inline void run_thread() {
    Fiber* self = running;
    self->stack.arrive_from(scheduler_stack);
    (*body)();
    self->done = true;
    self->stack.leave_for(scheduler_stack, true);
    swapcontext(&self->context, &scheduler);
}

inline void start(Fiber& fiber) {
    fiber.done = false;
    fiber.stack = Stack{fiber.memory.get(), STACK, nullptr};
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.memory.get();
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_thread, 0);
}

inline void resume(Fiber& fiber) {
    running = &fiber;
    threadIdx = fiber.thread;
    scheduler_stack.leave_for(fiber.stack);
    swapcontext(&scheduler, &fiber.context);
    scheduler_stack.arrive_from(fiber.stack);
}

inline Result run_block(std::mt19937& random) {
#ifndef __SANITIZE_ADDRESS__
    if (shared_start) memset(shared_start, 0xff, shared_stop - shared_start);
#endif
    std::vector<Fiber*> alive;
    for (Fiber& fiber : fibers) {
        start(fiber);
        alive.push_back(&fiber);
    }
    while (!alive.empty()) {
        std::shuffle(alive.begin(), alive.end(), random);
        for (Fiber* fiber : alive) resume(*fiber);
        const auto ended = [](Fiber* fiber) { return fiber->done; };
        const auto left = std::remove_if(alive.begin(), alive.end(), ended);
        if (left != alive.begin() && left != alive.end()) return DIVERGENT_BARRIER;
        alive.erase(left, alive.end());
    }
    return DONE;
}

inline Result run_grid(const std::function<void()>& thread, unsigned seed) {
    body = &thread;
    std::mt19937 random(seed);
    fibers.resize(blockDim.x * blockDim.y * blockDim.z);
    for (unsigned i = 0; i < fibers.size(); ++i) {
        fibers[i].thread = {
            i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y
        };
    }
    std::vector<unsigned> blocks(gridDim.x * gridDim.y * gridDim.z);
    for (unsigned i = 0; i < blocks.size(); ++i) blocks[i] = i;
    std::shuffle(blocks.begin(), blocks.end(), random);
    for (const unsigned i : blocks) {
        blockIdx = {i % gridDim.x, i / gridDim.x % gridDim.y, i / gridDim.x / gridDim.y};
        const Result result = run_block(random);
        if (result != DONE) return result;
    }
    return DONE;
}

// Whether an argument is what the parameter takes: `size` is a scalar's bytes, or of an array
// minus the bytes of one value. A null pointer is a scalar; uint8 arrays may hold structures.
template <class Parameter>
bool fits(int size, const void* argument) {
    if constexpr (std::is_pointer_v<Parameter>) {
        constexpr int value = sizeof(std::remove_pointer_t<Parameter>);
        const bool null = size == 8 && *static_cast<void* const*>(argument) == nullptr;
        return null || size == -value || size == -1;
    } else {
        return size == static_cast<int>(sizeof(Parameter));
    }
}

template <class... Parameters, size_t... I>
Result launch(
    void (*kernel)(Parameters...), void** arguments, const int* sizes, unsigned seed,
    std::index_sequence<I...>
) {
    if (!(fits<Parameters>(sizes[I], arguments[I]) && ...)) return WRONG_ARGUMENTS;
    return run_grid([&] { kernel(*static_cast<Parameters*>(arguments[I])...); }, seed);
}

template <class... Parameters>
Result launch(
    void (*kernel)(Parameters...), const unsigned* grid, const unsigned* block, void** arguments,
    const int* sizes, int count, unsigned seed
) {
    if (count != sizeof...(Parameters)) return WRONG_ARGUMENTS;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    return launch(kernel, arguments, sizes, seed, std::index_sequence_for<Parameters...>());
}

}  // namespace shim

inline void __syncthreads() { shim::wait(); }

// A C function that launches a kernel, for ctypes.
#define LAUNCHER(kernel)                                                                      \
    extern "C" int launch_##kernel(                                                           \
        const unsigned* grid, const unsigned* block, void** arguments, const int* sizes,      \
        int count, unsigned seed                                                              \
    ) {                                                                                       \
        return shim::launch(kernel, grid, block, arguments, sizes, count, seed);              \
    }
