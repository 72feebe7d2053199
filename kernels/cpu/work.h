// What the operators compute, as their kernels are told of it.
#pragma once

#include <cstddef>
#include <cstdint>

// Numbers that a model was trained to, as its file holds them: float32 or float16, the other null.
struct Weights {
  const float* single;
  const uint16_t* half;
};

// y = conv(x') + bias + added, x' = x · scale + shift a channel (where `scale` is not null), then
// SiLU if asked for. One picture, all float32 but w: x (channels_in, height, width), w (channels_out,
// channels_in, kernel, kernel), kernel 1 or 3, stride 1 or 2 (3×3 only), y (channels_out,
// out_height, out_width). `added` is as y, and may be y, or a number a channel.
struct Convolution {
  const float* x;
  Weights w;
  const float *bias, *scale, *shift, *added;
  float* y;
  bool silu, added_whole;
  size_t height, width, out_height, out_width, channels_in, channels_out;
  size_t kernel, stride, pad_top, pad_left;
};

// Of x (channels, area) float32.
struct GroupNorm {
  const float *x, *gamma, *beta;
  size_t channels, groups, area;
  float epsilon;
};

// y = x w + bias + added: x (rows, length), w (length, width), bias (width,), added and y (rows,
// width), all float32 but w. Gated, w and the bias are twice as wide, and y = a · gelu(b) + added of what
// they give, (a | b).
struct MatMul {
  const float* x;
  Weights w;
  const float *bias, *added;
  float* y;
  size_t rows, length, width;
  bool gated;

  size_t weights_width() const { return gated ? 2 * width : width; }
};

// y = softmax(q kᵀ · scale) v of every head: q and y (batch, queries, heads · depth), k and v
// (batch, keys, heads · depth), all float32; depth at most kMostDepth.
constexpr size_t kMostDepth = 1024;
struct Attention {
  const float *q, *k, *v;
  float* y;
  size_t batch, queries, keys, heads, depth;
  float scale;
};

// One head: q (rows, depth), and its keys as they are packed.
struct Head {
  const float *q, *keys;
  size_t depth;
};

// total (rows, keys) = the mean over `count` heads of softmax(q kᵀ), all float32.
struct MeanRows {
  const Head* heads;
  size_t count, rows, keys;
  float* total;
};

// total (rows, width) = softmax(q kᵀ) values of one head: q (rows, depth), k (keys, depth), values
// (keys, width), all float32.
struct SpreadHead {
  const float *q, *k, *values;
  float* total;
  size_t rows, keys, depth, width;
};

// Outputs of a bilinear resize along an axis: output i has its centre at (i + ½) · step − ½, clamped.
struct Axis {
  size_t inputs, outputs;
  double step;
};

// The affine functions of a picture's colours that fit the scores of up to 16 classes in windows of a
// radius, averaged over the windows (kernels/edges.py): scores (classes, height, width); small and
// mean (3, height, width), the picture and its means over the windows; inverse (3, 3, height, width),
// of the covariances; fits (height, width, 4, 16), the slopes of the three colours, then the
// offset, of each class, zeros for classes that there are not; all float32.
struct EdgeFits {
  const float *scores, *small, *mean, *inverse;
  float* fits;
  size_t classes, height, width, radius;
};

// What up to 16 classes win of the rows from `first` up to `last` of a picture: fits as
// above, (inputs of rows, inputs of columns, 4, 16); image (outputs of rows, outputs of columns, 3);
// labels, uint16 if `wide` and else uint8, and best hold the winners so far, and get numbers[i] for
// class i.
struct EdgeLabels {
  const float* fits;
  const uint8_t* image;
  const int32_t* numbers;
  void* labels;
  float* best;
  size_t classes, wide, first, last;
  Axis rows, columns;
};

// totals (classes, cells of the level) = Uᵀ (V maps / norms) of up to 16 classes
// (kernels/prototypes.py): maps (classes, inputs of rows, inputs of columns), V their resize to the
// picture, norms as the picture, U the resize of the level; all float32.
struct Overlap {
  const float *maps, *norms;
  float* totals;
  size_t classes;
  Axis rows, columns, level_rows, level_columns;
};
