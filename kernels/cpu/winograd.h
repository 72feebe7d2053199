// Convolutions with 3×3 kernels, stride 1 and padding 1 by Winograd's minimal filtering
// (winograd_tiles.h): a quarter of the multiplications.
//
// Nothing is kept between runs: U = G W Gᵀ is made where it is used, in a few hundredths of the
// time, so that weights stay where they are, once.
#pragma once

#include <algorithm>

#include "runner.h"
#include "work.h"

namespace winograd {

// One picture of a batch.
struct Plan {
  int height, width;
  size_t channels_in, channels_out;
  size_t tiles_x, tiles;
  const float* x;
  Weights w;
  const float *bias, *added;  // added as y, or null
  float* y;
};

// What winograd_tiles.h compiles to for one instruction set; it says what each function does.
struct Kernels {
  size_t block, group, depth;    // tiles, output channels and input channels of a product
  size_t u_floats, m_floats;     // what U of a group and depth, and M of a group and block, take
  size_t (*v_floats)(const Plan&);  // what V of a block takes
  void (*transform_block)(const Plan&, size_t block, size_t from, size_t to, float* v);
  void (*transform_weights)(const Plan&, size_t group, size_t channel, float* u);
  void (*multiply)(const Plan&, size_t group, size_t from, size_t to, const float* v,
                   const float* u, float* scratch);
};

static inline size_t pieces(size_t whole, size_t piece) { return (whole + piece - 1) / piece; }

// Many tiles: U once, then every thread takes blocks through all steps, with V of its own.
static void convolve_wide(const Kernels& k, const Plan& p, const Runner& runner) {
  const size_t groups = pieces(p.channels_out, k.group), depths = pieces(p.channels_in, k.depth);
  const size_t v_floats = k.v_floats(p);
  const auto shared = runner.floats(groups * depths * k.u_floats);
  float* const u = shared.get();
  runner.parallel(groups * depths, [&](size_t index) {
    k.transform_weights(p, index / depths, index % depths * k.depth, u + index * k.u_floats);
  });
  runner.parallel(pieces(p.tiles, k.block), [&](size_t block) {
    const auto own = runner.floats(v_floats + k.m_floats);
    float* const v = own.get();
    k.transform_block(p, block, 0, p.channels_in, v);
    for (size_t group = 0; group < groups; ++group)
      k.multiply(p, group, block, block + 1, v, u, v + v_floats);
  });
}

// Few tiles, many channels: V once, then every thread takes groups of output channels, with U
// of its own, a few input channels at a time.
static void convolve_deep(const Kernels& k, const Plan& p, const Runner& runner) {
  constexpr size_t kStrip = 16;  // input channels of a task
  const size_t blocks = pieces(p.tiles, k.block), strips = pieces(p.channels_in, kStrip);
  const size_t v_floats = k.v_floats(p);
  const auto shared = runner.floats(blocks * v_floats);
  float* const v = shared.get();
  runner.parallel(blocks * strips, [&](size_t index) {
    const size_t block = index / strips, from = index % strips * kStrip;
    k.transform_block(p, block, from, std::min(from + kStrip, p.channels_in), v + block * v_floats);
  });
  const size_t groups = pieces(p.channels_out, k.group);
  const size_t cut = pieces(blocks, std::min(pieces(2 * runner.cores(), groups), blocks));
  runner.parallel(groups * pieces(blocks, cut), [&](size_t index) {
    const size_t from = index / groups * cut, to = std::min(from + cut, blocks);
    const auto own = runner.floats(cut * k.m_floats + k.u_floats);
    k.multiply(p, index % groups, from, to, v + from * v_floats, nullptr, own.get());
  });
}

static void convolve(const Kernels& k, const Plan& p, const Runner& runner) {
  if (pieces(p.tiles, k.block) >= 4 * runner.cores())
    convolve_wide(k, p, runner);
  else
    convolve_deep(k, p, runner);
}

}  // namespace winograd
