// Convolutions, products and attention by bfloat16 products, for the processor at hand.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "runner.h"
#include "work.h"

#if defined(__x86_64__) && (defined(__clang__) || __GNUC__ >= 11)
#include <cpuid.h>
#include <immintrin.h>
#define HAS_TILES 1
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace bf16x3 {

// What the headers compile to for one instruction set.
struct Kernels {
  void (*convolve)(const Convolution&, const Runner&);
  void (*multiply)(const MatMul&, const Runner&);
  void (*attend)(const Attention&, const Runner&);
  void (*normalise)(const GroupNorm&, size_t group, float* scale, float* shift);
  void (*activate)(const float* x, size_t area, float scale, float shift, bool silu, float* y);
  void (*gate)(const float* x, const float* bias, size_t rows, size_t width, float* y);
};

#define KERNELS \
  static const Kernels kernels = {run, run, run, normalise, activate, gate};

#ifdef HAS_TILES
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,fma,amx-tile,amx-bf16"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,fma,amx-tile,amx-bf16")
#endif
namespace tiles {
#define AMX
#include "bf16x3_tiles.h"
#include "bf16x3_convolution.h"
#include "bf16x3_matmul.h"
#include "bf16x3_attention.h"
#include "group_norm.h"
#undef AMX
KERNELS
}  // namespace tiles
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace avx2 {
#include "bf16x3_tiles.h"
#include "bf16x3_convolution.h"
#include "bf16x3_matmul.h"
#include "bf16x3_attention.h"
#include "group_norm.h"
KERNELS
}  // namespace avx2
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
namespace plain {
#include "bf16x3_tiles.h"
#include "bf16x3_convolution.h"
#include "bf16x3_matmul.h"
#include "bf16x3_attention.h"
#include "group_norm.h"
KERNELS
}  // namespace plain
#undef KERNELS

// Whether the processor has bfloat16 tiles and the system lets this process use them.
inline bool has_tiles() {
#if defined(HAS_TILES) && defined(__linux__)
  static const bool found = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    __builtin_cpu_init();
    const bool told = __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0;
    constexpr unsigned kTiles = 1u << 24, kBfloat16 = 1u << 22;
    if (!told || !(d & kTiles) || !(d & kBfloat16) || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
      return false;
    constexpr long kAsk = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kAsk, kTileData) == 0;
  }();
  return found;
#else
  return false;
#endif
}

// The fastest that this processor has; MDRT_SIMD=avx2 or plain takes a slower one, for tests.
inline const Kernels& best_kernels() {
#ifdef HAS_TILES
  __builtin_cpu_init();
  const char* asked = std::getenv("MDRT_SIMD");
  const std::string limit = asked == nullptr ? "" : asked;
  if (limit.empty() && has_tiles()) return tiles::kernels;
  if (limit != "plain" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return avx2::kernels;
#endif
  return plain::kernels;
}

}  // namespace bf16x3
