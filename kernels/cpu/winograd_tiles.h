// Winograd's minimal filtering F(4×4, 3×3); included once for each instruction set, with LANES
// (floats of a vector register), ROWS and VECTORS (registers of a product) defined.
//
// Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, section 4.1: a 4×4 tile of
// the output is Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A, with d the 6×6 tile of the input around it. Summed over
// input channels, ⊙ becomes 36 matrix products: 36 multiplications where a direct convolution
// needs 144.

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4 * LANES), may_alias));
typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float Row __attribute__((vector_size(4 * ROWS), aligned(4 * ROWS), may_alias));
typedef float UnalignedRow __attribute__((vector_size(4 * ROWS), aligned(4), may_alias));

constexpr size_t kBlock = LANES * VECTORS;  // tiles that go through a product together
constexpr size_t kGroup = 32;               // output channels that share one reading of V
constexpr size_t kDepth = 128;              // input channels whose U is held at a time
static_assert(kGroup % ROWS == 0, "a group is whole rows of products");

// Between the 36 matrices of U, V and M lies a cache line more than they need: a multiple of 4 KiB
// would put what is written together into one set of the cache.
constexpr size_t kApart = 16;
constexpr size_t kUStride = kGroup * kDepth + kApart;
constexpr size_t kMStride = kGroup * kBlock + kApart;
static inline size_t v_stride(const Plan& p, size_t width) {
  return p.channels_in * width + kApart;
}

// Bᵀ applied to six vectors.
static inline void input_transform(const Vector d[6], Vector t[6]) {
  const Vector a = d[4] - 4 * d[2], b = d[3] - 4 * d[1];
  const Vector c = d[4] - d[2], e = 2 * (d[3] - d[1]);
  t[0] = 4 * d[0] - 5 * d[2] + d[4];
  t[1] = a + b;
  t[2] = a - b;
  t[3] = c + e;
  t[4] = c - e;
  t[5] = 4 * d[1] - 5 * d[3] + d[5];
}

// Aᵀ applied to six vectors.
static inline void output_transform(const Vector m[6], Vector y[4]) {
  const Vector a = m[1] + m[2], b = m[1] - m[2];
  const Vector c = m[3] + m[4], e = m[3] - m[4];
  y[0] = m[0] + a + c;
  y[1] = b + 2 * e;
  y[2] = a + 4 * c;
  y[3] = b + 8 * e + m[5];
}

// G applied to three vectors.
static inline void weight_transform(const Row g[3], Row u[6]) {
  const Row a = (g[0] + g[2]) * (-1.0f / 6), b = g[1] * (1.0f / 6);
  const Row c = g[0] * (1.0f / 24) + g[2] * (1.0f / 6), e = g[1] * (1.0f / 12);
  u[0] = g[0] * 0.25f;
  u[1] = a - b;
  u[2] = a + b;
  u[3] = c + e;
  u[4] = c - e;
  u[5] = g[2];
}

#include "shuffle.h"

// The even and the odd floats of two vectors, and how two such make one again.
struct Even {
  static constexpr int at(int i) { return 2 * i; }
};
struct Odd {
  static constexpr int at(int i) { return 2 * i + 1; }
};
struct Low {
  static constexpr int at(int i) { return i / 2 + i % 2 * LANES; }
};
struct High {
  static constexpr int at(int i) { return LANES / 2 + i / 2 + i % 2 * LANES; }
};
struct Next {
  static constexpr int at(int i) { return i + 1; }
};

// d[j][lane] = row[4·lane + j]: six columns of the tiles of one row.
static inline void load_columns(const float* row, Vector d[6]) {
  Vector v[4];
  for (int i = 0; i < 4; ++i) v[i] = *reinterpret_cast<const Unaligned*>(row + i * LANES);
  const Vector e0 = take<Even>(v[0], v[1]);
  const Vector e1 = take<Even>(v[2], v[3]);
  const Vector o0 = take<Odd>(v[0], v[1]);
  const Vector o1 = take<Odd>(v[2], v[3]);
  d[0] = take<Even>(e0, e1);
  d[1] = take<Even>(o0, o1);
  d[2] = take<Odd>(e0, e1);
  d[3] = take<Odd>(o0, o1);
  const Vector after0 = {row[4 * LANES]}, after1 = {row[4 * LANES + 1]};
  d[4] = take<Next>(d[0], after0);
  d[5] = take<Next>(d[1], after1);
}

// The reverse for four columns.
static inline void store_columns(const Vector y[4], float* row) {
  const Vector e0 = take<Low>(y[0], y[2]);
  const Vector e1 = take<High>(y[0], y[2]);
  const Vector o0 = take<Low>(y[1], y[3]);
  const Vector o1 = take<High>(y[1], y[3]);
  Unaligned* out = reinterpret_cast<Unaligned*>(row);
  out[0] = take<Low>(e0, o0);
  out[1] = take<High>(e0, o0);
  out[2] = take<Low>(e1, o1);
  out[3] = take<High>(e1, o1);
}

// Tiles that the vectors of a block hold: the last block is as narrow as its tiles allow.
static inline size_t width_of(const Plan& p, size_t block) {
  const size_t left = p.tiles - block * kBlock;
  return left >= kBlock ? kBlock : (left + LANES - 1) / LANES * LANES;
}

// The columns of LANES tiles beside one another in one row of the picture; zeros outside of it.
static inline void load_row(const Plan& p, const float* image, int y, int left, Vector d[6]) {
  constexpr int needed = 4 * LANES + 2;
  if (y < 0 || y >= p.height) {
    for (int j = 0; j < 6; ++j) d[j] = Vector{};
    return;
  }
  const float* row = image + ptrdiff_t(y) * p.width + left;
  if (left >= 0 && left + needed <= p.width) return load_columns(row, d);
  float padded[needed] = {};
  const int from = std::max(0, -left), to = std::min(needed, p.width - left);
  std::memcpy(padded + from, row + from, size_t(to - from) * sizeof(float));
  load_columns(padded, d);
}

// Bᵀ d B of LANES tiles of one channel, from the tile `first` on, into v[36][·][tile].
static void transform_input(const Plan& p, const float* image, size_t first, float* v,
                            size_t stride) {
  Vector d[6][6], column[6], result[6];
  const size_t in_row = first % p.tiles_x;
  if (in_row + LANES <= p.tiles_x) {
    const int top = 4 * int(first / p.tiles_x) - 1, left = 4 * int(in_row) - 1;
    for (int i = 0; i < 6; ++i) load_row(p, image, top + i, left, d[i]);
  } else {
    alignas(64) float taken[6][6][LANES];
    for (int lane = 0; lane < LANES; ++lane) {
      const size_t tile = first + lane;
      const int y = 4 * int(tile / p.tiles_x) - 1, x = 4 * int(tile % p.tiles_x) - 1;
      const bool whole = x >= 0 && x + 6 <= p.width;
      for (int i = 0; i < 6; ++i) {
        const bool within = y + i >= 0 && y + i < p.height;
        const float* row = image + ptrdiff_t(y + i) * p.width + x;
        for (int j = 0; j < 6; ++j)
          taken[i][j][lane] =
              within && (whole || (x + j >= 0 && x + j < p.width)) ? row[j] : 0.0f;
      }
    }
    for (int i = 0; i < 6; ++i)
      for (int j = 0; j < 6; ++j) d[i][j] = *reinterpret_cast<const Vector*>(taken[i][j]);
  }
  for (int j = 0; j < 6; ++j) {
    for (int i = 0; i < 6; ++i) column[i] = d[i][j];
    input_transform(column, result);
    for (int i = 0; i < 6; ++i) d[i][j] = result[i];
  }
  for (int i = 0; i < 6; ++i) {
    input_transform(d[i], result);
    for (int j = 0; j < 6; ++j)
      *reinterpret_cast<Vector*>(v + size_t(6 * i + j) * stride) = result[j];
  }
}

// Channels `from` to `to` of one block's V[36][channels_in][tile], the 36 `v_stride` apart.
static void transform_block(const Plan& p, size_t block, size_t from, size_t to, float* v) {
  const size_t width = width_of(p, block), area = size_t(p.height) * p.width;
  for (size_t c = from; c < to; ++c)
    for (size_t lane = 0; lane < width; lane += LANES)
      transform_input(p, p.x + c * area, block * kBlock + lane, v + c * width + lane,
                      v_stride(p, width));
}

// Halves of two rows, interleaved.
struct LowRows {
  static constexpr int at(int i) { return i / 2 + i % 2 * ROWS; }
};
struct HighRows {
  static constexpr int at(int i) { return ROWS / 2 + i / 2 + i % 2 * ROWS; }
};

// g[q][r] = kernels[r][from + q]: a transposition, by interleaving halves log2(ROWS) times.
static inline void gather(const float* const kernels[ROWS], size_t from, Row g[9]) {
  static_assert(9 % ROWS == 1, "whole squares and one column");
  for (int q = 0; q < 9 - ROWS + 1; q += ROWS) {
    Row square[ROWS], next[ROWS];
    for (int r = 0; r < ROWS; ++r)
      square[r] = *reinterpret_cast<const UnalignedRow*>(kernels[r] + from + q);
    for (int step = 1; step < ROWS; step *= 2) {
      for (int r = 0; r < ROWS / 2; ++r) {
        next[2 * r] = take<LowRows>(square[r], square[r + ROWS / 2]);
        next[2 * r + 1] = take<HighRows>(square[r], square[r + ROWS / 2]);
      }
      for (int r = 0; r < ROWS; ++r) square[r] = next[r];
    }
    for (int r = 0; r < ROWS; ++r) g[q + r] = square[r];
  }
  alignas(64) float last[ROWS];
  for (int r = 0; r < ROWS; ++r) last[r] = kernels[r][from + 8];
  g[8] = *reinterpret_cast<const Row*>(last);
}

// float16 to float32, exactly; of finite numbers.
static inline void widen(const uint16_t* from, size_t count, float* to) {
  for (size_t i = 0; i < count; ++i) {
    const uint32_t magnitude = uint32_t(from[i] & 0x7fff) << 13;
    float size;
    std::memcpy(&size, &magnitude, sizeof(size));
    to[i] = (from[i] & 0x8000 ? -size : size) * 0x1p112f;  // the exponents' biases differ by it
  }
}

// U = G g Gᵀ of a group of output channels and kDepth input channels from `channel` on, or as many
// as there are: u[36][ROWS-th][kDepth][ROWS]. Output channels beyond the last are zeros.
static void transform_weights(const Plan& p, size_t group, size_t channel, float* u) {
  static const float zeros[9 * kDepth] = {};
  const size_t depth = std::min(kDepth, p.channels_in - channel);
  for (size_t row = 0; row < kGroup; row += ROWS) {
    const float* kernels[ROWS];
    alignas(64) float widened[ROWS][9 * kDepth];
    for (size_t r = 0; r < ROWS; ++r) {
      const size_t out = group * kGroup + row + r, place = (out * p.channels_in + channel) * 9;
      kernels[r] = zeros;
      if (out < p.channels_out && p.w.single != nullptr) kernels[r] = p.w.single + place;
      if (out < p.channels_out && p.w.single == nullptr) {
        widen(p.w.half + place, 9 * depth, widened[r]);
        kernels[r] = widened[r];
      }
    }
    float* of_row = u + row * kDepth;
    for (size_t c = 0; c < depth; ++c, of_row += ROWS) {
      Row g[9], half[6][3], column[6];
      gather(kernels, 9 * c, g);
      for (int j = 0; j < 3; ++j) {
        const Row across[3] = {g[j], g[3 + j], g[6 + j]};
        weight_transform(across, column);
        for (int i = 0; i < 6; ++i) half[i][j] = column[i];
      }
      for (int i = 0; i < 6; ++i) {
        weight_transform(half[i], column);
        for (int j = 0; j < 6; ++j)
          *reinterpret_cast<Row*>(of_row + size_t(6 * i + j) * kUStride) = column[j];
      }
    }
  }
}

// m[ROWS][width] (+)= u[depth][ROWS]ᵀ v[depth][width], width = N · LANES, all of it in registers.
template <int N>
static inline void product(const float* u, const float* v, size_t depth, bool more, float* m) {
  constexpr size_t width = N * LANES;
  Vector sum[ROWS][N] = {};
  if (more)
    for (int r = 0; r < ROWS; ++r)
      for (int n = 0; n < N; ++n) sum[r][n] = reinterpret_cast<const Vector*>(m + r * width)[n];
  for (size_t c = 0; c < depth; ++c, u += ROWS, v += width) {
    Vector tile[N];
    for (int n = 0; n < N; ++n) tile[n] = reinterpret_cast<const Vector*>(v)[n];
    for (int r = 0; r < ROWS; ++r)
      for (int n = 0; n < N; ++n) sum[r][n] += u[r] * tile[n];
  }
  for (int r = 0; r < ROWS; ++r)
    for (int n = 0; n < N; ++n) reinterpret_cast<Vector*>(m + r * width)[n] = sum[r][n];
}

// The output tiles of one channel, LANES of them from `first` on, from m[36][·][tile]; `added` is
// as `image`, which it may be, or null.
static void transform_output(const Plan& p, const float* m, size_t stride, float bias,
                             size_t first, const float* added, float* image) {
  Vector t[4][6], column[6], y[4][4];
  for (int j = 0; j < 6; ++j) {
    for (int i = 0; i < 6; ++i)
      column[i] = *reinterpret_cast<const Vector*>(m + size_t(6 * i + j) * stride);
    Vector result[4];
    output_transform(column, result);
    for (int i = 0; i < 4; ++i) t[i][j] = result[i];
  }
  for (int i = 0; i < 4; ++i) {
    output_transform(t[i], y[i]);
    for (int j = 0; j < 4; ++j) y[i][j] += bias;
  }
  const size_t in_row = first % p.tiles_x;
  const size_t top = 4 * (first / p.tiles_x), left = 4 * in_row;
  if (in_row + LANES <= p.tiles_x && top + 4 <= size_t(p.height) &&
      left + 4 * LANES <= size_t(p.width)) {
    for (size_t i = 0; i < 4; ++i) {
      const size_t place = (top + i) * p.width + left;
      Vector more[4] = {};
      if (added != nullptr)  // before they are written over: `added` may be `image`
        for (int k = 0; k < 4; ++k) more[k] = reinterpret_cast<const Unaligned*>(added + place)[k];
      store_columns(y[i], image + place);
      if (added == nullptr) continue;
      Unaligned* const sums = reinterpret_cast<Unaligned*>(image + place);
      for (int k = 0; k < 4; ++k) sums[k] += more[k];
    }
    return;
  }
  for (size_t lane = 0; lane < LANES && first + lane < p.tiles; ++lane) {
    const size_t tile = first + lane;
    const size_t top_y = 4 * (tile / p.tiles_x), left_x = 4 * (tile % p.tiles_x);
    for (size_t i = 0; i < 4 && top_y + i < size_t(p.height); ++i)
      for (size_t j = 0; j < 4 && left_x + j < size_t(p.width); ++j) {
        const size_t place = (top_y + i) * p.width + left_x + j;
        image[place] = y[i][j][lane] + (added == nullptr ? 0.0f : added[place]);
      }
  }
}

// The output channels of one group for the blocks `from` to `to`, from their V. `u` is all of U,
// kGroup × kDepth at a time, or null: then it is made here. `scratch` holds M of the blocks and U.
static void multiply(const Plan& p, size_t group, size_t from, size_t to, const float* v,
                     const float* u, float* scratch) {
  const size_t first = group * kGroup, rows = std::min(kGroup, p.channels_out - first);
  float* m = scratch;
  if (u != nullptr) u += group * 36 * kUStride * ((p.channels_in + kDepth - 1) / kDepth);
  for (size_t channel = 0; channel < p.channels_in; channel += kDepth) {
    const size_t depth = std::min(kDepth, p.channels_in - channel);
    const float* here = u + 36 * kUStride * (channel / kDepth);
    if (u == nullptr) {
      float* made = scratch + (to - from) * 36 * kMStride;
      transform_weights(p, group, channel, made);
      here = made;
    }
    for (size_t block = from; block < to; ++block) {
      const size_t width = width_of(p, block);
      const float* v_block = v + (block - from) * 36 * v_stride(p, kBlock) + channel * width;
      float* m_block = m + (block - from) * 36 * kMStride;
      for (size_t k = 0; k < 36; ++k)
        for (size_t row = 0; row < rows; row += ROWS) {
          const float* of_u = here + k * kUStride + row * kDepth;
          const float* of_v = v_block + k * v_stride(p, width);
          float* of_m = m_block + k * kMStride + row * width;
          switch (width / LANES) {
            case 1: product<1>(of_u, of_v, depth, channel > 0, of_m); break;
            case 2: product<2>(of_u, of_v, depth, channel > 0, of_m); break;
            default: product<3>(of_u, of_v, depth, channel > 0, of_m);
          }
        }
    }
  }
  const size_t area = size_t(p.height) * p.width;
  for (size_t block = from; block < to; ++block) {
    const size_t width = width_of(p, block);
    for (size_t row = 0; row < rows; ++row)
      for (size_t lane = 0; lane < width; lane += LANES)
        transform_output(p, m + (block - from) * 36 * kMStride + row * width + lane, kMStride,
                         p.bias[first + row], block * kBlock + lane,
                         p.added == nullptr ? nullptr : p.added + (first + row) * area,
                         p.y + (first + row) * area);
  }
}

static constexpr Kernels kernels = {kBlock, kGroup, kDepth, 36 * kUStride, 36 * kMStride,
                                [](const Plan& p) { return 36 * v_stride(p, kBlock); }, transform_block,
                                transform_weights, multiply};
