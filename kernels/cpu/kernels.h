// The arithmetic of every operator, for the processor at hand.
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
#include <vector>

#include "runner.h"
#include "winograd.h"
#include "work.h"

#ifdef __x86_64__
#define HAS_SETS 1
#include <immintrin.h>
#if defined(__clang__) || __GNUC__ >= 11
#include <cpuid.h>
#define HAS_TILES 1
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif
#endif

// Of mean_map.h.
struct MeanMap {
  size_t (*packed_size)(size_t keys, size_t depth);
  void (*pack)(const float* k, size_t keys, size_t depth, float* packed);
  void (*rows)(const MeanRows&, Scratch&);
};

// Of upsampled.h.
struct Upsampled {
  void (*fits)(const EdgeFits&, Scratch&);
  void (*labels)(const EdgeLabels&, Scratch&);
  void (*overlap)(const Overlap&, Scratch&);
};

// What the headers compile to for one instruction set.
struct Kernels {
  winograd::Kernels filtering;
  void (*convolve)(const Convolution&, const Runner&);
  void (*multiply)(const MatMul&, const Runner&);
  void (*attend)(const Attention&, const Runner&);
  void (*normalise)(const GroupNorm&, size_t group, float* scale, float* shift);
  void (*activate)(const float* x, size_t area, float scale, float shift, bool silu, float* y);
  void (*gate)(const float* x, const float* bias, size_t rows, size_t width, float* y);
  const MeanMap* mean_map;  // null where there is none, as the next
  const Upsampled* upsampled;
  void (*spread)(const SpreadHead&, Scratch&);  // null without tiles
};

#define PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define BEGIN_SET(features) \
  PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define END_SET PRAGMA(clang attribute pop)
#else
#define BEGIN_SET(features) PRAGMA(GCC push_options) PRAGMA(GCC target(features))
#define END_SET PRAGMA(GCC pop_options)
#endif
#define KERNELS(of_filtering, of_mean_map, of_upsampled, of_spread)        \
  static constexpr Kernels kernels = {                                     \
      of_filtering,  products::run,       products::run,      products::run, \
      products::normalise, products::activate, products::gate,                       \
      of_mean_map, of_upsampled, of_spread};

#ifdef HAS_SETS
BEGIN_SET("avx512f,avx512vl,avx512dq,avx512bw,fma")
namespace avx512 {
#define WIDE
#define LANES 16
#define ROWS 8
#define VECTORS 3
#include "filtering.h"
#undef LANES
#undef ROWS
#undef VECTORS
#include "products.h"
using namespace products;
#include "mean_map.h"
#include "upsampled.h"
#undef WIDE
KERNELS(filtering::kernels, &mean::kernels, &upsampled::kernels, nullptr)
}  // namespace avx512
END_SET
#ifdef HAS_TILES
BEGIN_SET("avx512f,avx512vl,avx512dq,avx512bw,fma,avx512bf16,amx-tile,amx-bf16")
namespace tiles {
#define AMX
#define WIDE
#include "products.h"
using namespace products;
#include "spread.h"
#undef WIDE
#undef AMX
KERNELS(avx512::filtering::kernels, &avx512::mean::kernels, &avx512::upsampled::kernels, spread)
}  // namespace tiles
END_SET
#endif
BEGIN_SET("avx2,fma")
namespace avx2 {
#define LANES 8
#define ROWS 4
#define VECTORS 3
#include "filtering.h"
#undef LANES
#undef ROWS
#undef VECTORS
#include "products.h"
KERNELS(filtering::kernels, nullptr, nullptr, nullptr)
}  // namespace avx2
END_SET
#endif
namespace plain {
#define LANES 4
#define ROWS 4
#define VECTORS 3
#include "filtering.h"
#undef LANES
#undef ROWS
#undef VECTORS
#include "products.h"
KERNELS(filtering::kernels, nullptr, nullptr, nullptr)
}  // namespace plain
#undef KERNELS
#undef BEGIN_SET
#undef END_SET
#undef PRAGMA

#ifdef HAS_SETS
inline bool has_avx512() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bw");
}
#endif

// Whether the processor has bfloat16 tiles and the system lets this process use them.
inline bool has_tiles() {
#if defined(HAS_TILES) && defined(__linux__)
  static const bool found = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned kTiles = 1u << 24, kBfloat16 = 1u << 22;
    const bool told = __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0;
    if (!told || !(d & kTiles) || !(d & kBfloat16) || !has_avx512()) return false;
    constexpr unsigned kHalving = 1u << 5;  // AVX512_BF16
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d) == 0 || !(a & kHalving)) return false;
    constexpr long kAsk = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kAsk, kTileData) == 0;
  }();
  return found;
#else
  return false;
#endif
}

// The fastest that this processor has; MDRT_SIMD=avx512, avx2 or plain takes a slower one, for
// tests.
inline const Kernels& best_kernels() {
#ifdef HAS_SETS
  const char* asked = std::getenv("MDRT_SIMD");
  const std::string limit = asked == nullptr ? "tiles" : asked;
#ifdef HAS_TILES
  if (limit == "tiles" && has_tiles()) return tiles::kernels;
#endif
  if ((limit == "tiles" || limit == "avx512") && has_avx512()) return avx512::kernels;
  __builtin_cpu_init();
  if (limit != "plain" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return avx2::kernels;
#endif
  return plain::kernels;
}
