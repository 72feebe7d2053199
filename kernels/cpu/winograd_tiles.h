// Winograd's minimal filtering F(4×4, 3×3) for one block of tiles; included once for each
// instruction set, with LANES (floats of a vector register), ROWS and VECTORS defined.
//
// Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, section 4.1: a 4×4 tile of
// the output is Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A, with d the 6×6 tile of the input around it. Summed over
// input channels, ⊙ becomes 36 matrix products: 36 multiplications where a direct convolution
// needs 144.

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4 * LANES), may_alias));

constexpr int kBlock = LANES * VECTORS;  // tiles that go through the products together

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

// V[k][channel][tile] = Bᵀ d B for LANES tiles of one channel, from the tile `first` on.
static void transform_input(const Plan& p, const float* image, size_t first, float* v) {
  alignas(64) float d[6][6][LANES];
  const size_t in_row = first % p.tiles_x;
  const int top = 4 * int(first / p.tiles_x) - 1, left = 4 * int(in_row) - 1;
  const bool inside = in_row + LANES <= p.tiles_x && top >= 0 && top + 6 <= p.height &&
                      left >= 0 && left + 4 * LANES + 2 <= p.width;
  if (inside) {
    for (int i = 0; i < 6; ++i) {
      const float* row = image + size_t(top + i) * p.width + left;
      for (int j = 0; j < 6; ++j)
        for (int lane = 0; lane < LANES; ++lane) d[i][j][lane] = row[4 * lane + j];
    }
  } else {
    for (int lane = 0; lane < LANES; ++lane) {
      const size_t tile = first + lane;
      const int y = 4 * int(tile / p.tiles_x) - 1, x = 4 * int(tile % p.tiles_x) - 1;
      for (int i = 0; i < 6; ++i)
        for (int j = 0; j < 6; ++j) {
          const bool within = y + i >= 0 && y + i < p.height && x + j >= 0 && x + j < p.width;
          d[i][j][lane] = within ? image[size_t(y + i) * p.width + x + j] : 0.0f;
        }
    }
  }
  Vector t[6][6], column[6], result[6];
  for (int j = 0; j < 6; ++j) {
    for (int i = 0; i < 6; ++i) column[i] = *reinterpret_cast<const Vector*>(d[i][j]);
    input_transform(column, result);
    for (int i = 0; i < 6; ++i) t[i][j] = result[i];
  }
  for (int i = 0; i < 6; ++i) {
    input_transform(t[i], result);
    for (int j = 0; j < 6; ++j)
      *reinterpret_cast<Vector*>(v + size_t(6 * i + j) * p.channels_in * kBlock) = result[j];
  }
}

// The output tiles of one channel, LANES of them from `first` on, from M[k][row][tile].
static void transform_output(const Plan& p, const float* m, size_t stride, float bias,
                             size_t first, float* image) {
  Vector t[4][6], column[6], result[4];
  for (int j = 0; j < 6; ++j) {
    for (int i = 0; i < 6; ++i)
      column[i] = *reinterpret_cast<const Vector*>(m + size_t(6 * i + j) * stride);
    output_transform(column, result);
    for (int i = 0; i < 4; ++i) t[i][j] = result[i];
  }
  alignas(64) float y[4][4][LANES];
  for (int i = 0; i < 4; ++i) {
    output_transform(t[i], result);
    for (int j = 0; j < 4; ++j) *reinterpret_cast<Vector*>(y[i][j]) = result[j] + bias;
  }
  const size_t in_row = first % p.tiles_x;
  const size_t top = 4 * (first / p.tiles_x), left = 4 * in_row;
  if (in_row + LANES <= p.tiles_x && top + 4 <= size_t(p.height) &&
      left + 4 * LANES <= size_t(p.width)) {
    for (int i = 0; i < 4; ++i) {
      float* row = image + (top + i) * p.width + left;
      for (int lane = 0; lane < LANES; ++lane)
        for (int j = 0; j < 4; ++j) row[4 * lane + j] = y[i][j][lane];
    }
    return;
  }
  for (int lane = 0; lane < LANES && first + lane < p.tiles; ++lane) {
    const size_t tile = first + lane;
    const size_t top_y = 4 * (tile / p.tiles_x), left_x = 4 * (tile % p.tiles_x);
    for (size_t i = 0; i < 4 && top_y + i < size_t(p.height); ++i)
      for (size_t j = 0; j < 4 && left_x + j < size_t(p.width); ++j)
        image[(top_y + i) * p.width + left_x + j] = y[i][j][lane];
  }
}

// M[ROWS][kBlock] = U[channels_in][ROWS]ᵀ V[channels_in][kBlock], all of it in registers.
static inline void product(const float* u, const float* v, size_t channels, float* m) {
  Vector sum[ROWS][VECTORS] = {};
  for (size_t c = 0; c < channels; ++c, u += ROWS, v += kBlock) {
    Vector tile[VECTORS];
    for (int n = 0; n < VECTORS; ++n) tile[n] = reinterpret_cast<const Vector*>(v)[n];
    for (int r = 0; r < ROWS; ++r)
      for (int n = 0; n < VECTORS; ++n) sum[r][n] += u[r] * tile[n];
  }
  for (int r = 0; r < ROWS; ++r)
    for (int n = 0; n < VECTORS; ++n) reinterpret_cast<Vector*>(m + r * kBlock)[n] = sum[r][n];
}

// One block of tiles of one picture, every output channel. `scratch` holds the block's V and,
// for ROWS output channels, M.
static void convolve_block(const Plan& p, const float* image, size_t block, float* scratch,
                           float* result) {
  const size_t first = block * kBlock, area = size_t(p.height) * p.width;
  float* v = scratch;
  float* m = scratch + size_t(36) * p.channels_in * kBlock;
  for (size_t c = 0; c < p.channels_in; ++c)
    for (int n = 0; n < VECTORS; ++n)
      transform_input(p, image + c * area, first + n * LANES, v + c * kBlock + n * LANES);
  for (size_t row = 0; row < p.channels_out; row += ROWS) {
    const float* u = p.u + row * p.channels_in;
    for (size_t k = 0; k < 36; ++k)
      product(u + k * p.rows_padded * p.channels_in, v + k * p.channels_in * kBlock,
              p.channels_in, m + k * ROWS * kBlock);
    for (size_t r = 0; r < ROWS && row + r < p.channels_out; ++r)
      for (int n = 0; n < VECTORS && first + n * LANES < p.tiles; ++n)
        transform_output(p, m + r * kBlock + n * LANES, size_t(ROWS) * kBlock, p.bias[row + r],
                         first + n * LANES, result + (row + r) * area);
  }
}

static const Kernels kernels = {ROWS, kBlock, convolve_block};
