// What NumPy's arrays are given to, through ctypes: functions that return 0, or 1 where memory ran
// out. Each computes on the thread that calls it.
#pragma once

#include <new>

#include "kernels.h"

#define FOR_NUMPY extern "C" __attribute__((visibility("default")))

namespace arrays {

inline const Kernels& kernels() {
  static const Kernels& chosen = best_kernels();
  return chosen;
}

template <typename Task>
int guarded(const Task& task) {
  try {
    task();
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

}  // namespace arrays

// How many float32 the keys (keys, depth) of a head take, packed; 0 where this processor has no
// mean_map.h.
FOR_NUMPY size_t mdrt_packed_keys(size_t keys, size_t depth) {
  const MeanMap* const map = arrays::kernels().mean_map;
  return map == nullptr ? 0 : map->packed_size(keys, depth);
}

FOR_NUMPY int mdrt_pack_keys(const float* k, size_t keys, size_t depth, float* packed) {
  return arrays::guarded([&] { arrays::kernels().mean_map->pack(k, keys, depth, packed); });
}

FOR_NUMPY int mdrt_mean_rows(const MeanRows* m) {
  return arrays::guarded([&] { arrays::kernels().mean_map->rows(*m, *Scratch::shared()); });
}

// Whether there is `mdrt_spread_head` for heads of a depth: 1 or 0.
FOR_NUMPY int mdrt_has_spread(size_t depth) {
  return arrays::kernels().spread != nullptr && depth <= kMostDepth ? 1 : 0;
}

FOR_NUMPY int mdrt_spread_head(const SpreadHead* s) {
  return arrays::guarded([&] { arrays::kernels().spread(*s, *Scratch::shared()); });
}

// Whether this processor has upsampled.h: 1 or 0.
FOR_NUMPY int mdrt_has_upsampled() { return arrays::kernels().upsampled != nullptr ? 1 : 0; }

FOR_NUMPY int mdrt_edge_fits(const EdgeFits* e) {
  return arrays::guarded([&] { arrays::kernels().upsampled->fits(*e, *Scratch::shared()); });
}

FOR_NUMPY int mdrt_edge_labels(const EdgeLabels* e) {
  return arrays::guarded([&] { arrays::kernels().upsampled->labels(*e, *Scratch::shared()); });
}

FOR_NUMPY int mdrt_overlap(const Overlap* o) {
  return arrays::guarded([&] { arrays::kernels().upsampled->overlap(*o, *Scratch::shared()); });
}

#undef FOR_NUMPY
