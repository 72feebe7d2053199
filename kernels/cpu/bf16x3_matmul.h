// Matrix products with weights by bfloat16 products (bf16x3_tiles.h); included once for each
// instruction set.

constexpr size_t kLength = 1024;  // of the sum, whose weights are at hand together

// Steps of A from rows of numbers `apart`, `count` of them; zeros where there are none.
static inline void pack_left(const float* from, size_t apart, size_t rows, size_t count,
                             uint32_t* a) {
  for (size_t r = 0; r < 32; ++r) {
    uint32_t* to = a + r / 16 * kTile + r % 16 * 16;
    for (size_t k = 0; k < count; k += 32, to += kStep) {
      Vector low = {}, high = {};
      if (r < rows) {
        low = load(from + r * apart + k, count - k);
        if (count - k > 16) high = load(from + r * apart + k + 16, count - k - 16);
      }
      store_left(low, high, to, to + 2 * kTile);
    }
  }
}

// Tiles of B for a step each (hi of columns 0 to 15, of 16 to 31, lo of each), from `count` rows
// of up to 32 numbers, `apart`; zeros where there are none.
template <typename Number>
static inline void pack_right(const Number* from, size_t apart, size_t columns, size_t count,
                              uint32_t* b) {
  for (size_t k = 0; k < (count + 31) / 32 * 32; k += 2) {
    uint32_t* const to = b + k / 32 * kStep + k % 32 / 2 * 16;
    for (size_t half = 0; half < 2; ++half) {
      Vector rows[2] = {};
      for (size_t i = 0; i < 2; ++i)
        if (k + i < count && columns > 16 * half)
          rows[i] = load(from + (k + i) * apart + 16 * half, columns - 16 * half);
      Words hi, lo;
      split_pairs(rows[0], rows[1], &hi, &lo);
      *reinterpret_cast<Words*>(to + half * kTile) = hi;
      *reinterpret_cast<Words*>(to + (2 + half) * kTile) = lo;
    }
  }
}

// What `pack_right` packed, as a product reads it.
static inline Right packed_right(const uint32_t* b, const ptrdiff_t* offsets) {
  return {b, b + 2 * kTile, offsets, 16, kTile};
}

// Steps that lie one behind the other.
constexpr auto kInLine = [] {
  std::array<ptrdiff_t, std::max(kLength, kMostDepth) / 32> all{};
  for (size_t i = 0; i < all.size(); ++i) all[i] = ptrdiff_t(i * kStep);
  return all;
}();

static inline size_t steps_of(size_t length) { return (length + 31) / 32; }

// Columns of the weights that go with a group of 32 columns of the output: gated, a group of
// values and the group of gates beside it.
static void pack_columns(const MatMul& m, size_t group, size_t gate, size_t from, size_t to,
                         uint32_t* b) {
  const size_t column = 32 * group;
  const size_t place = from * m.weights_width() + gate * m.width + column;
  if (m.w.single != nullptr)
    pack_right(m.w.single + place, m.weights_width(), m.width - column, to - from, b);
  else
    pack_right(m.w.half + place, m.weights_width(), m.width - column, to - from, b);
}

// The sums of up to 32 rows and a group of columns, with what follows, to the output.
static void finish(const MatMul& m, size_t row, size_t rows, size_t group, const float* sums) {
  const size_t column = 32 * group, count = std::min<size_t>(32, m.width - column);
  for (size_t r = 0; r < rows; ++r) {
    const size_t place = (row + r) * m.width + column;
    for (size_t i = 0; i < count; i += 16) {
      Vector v = load(sums + r * 32 + i, 16);
      if (m.bias != nullptr) v += load(m.bias + column + i, count - i);
      if (m.gated) {
        Vector gate = load(sums + 1024 + r * 32 + i, 16);
        if (m.bias != nullptr) gate += load(m.bias + m.width + column + i, count - i);
        v *= gelu(gate);
      }
      if (m.added != nullptr) v += load(m.added + place + i, count - i);
      store(v, m.y + place + i, count - i);
    }
  }
}

// a · gelu(b) of rows (a | b), to which the bias is added first.
static void gate(const float* x, const float* bias, size_t rows, size_t width, float* y) {
  for (size_t r = 0; r < rows; ++r, x += 2 * width, y += width)
    for (size_t i = 0; i < width; i += 16) {
      Vector a = load(x + i, width - i), b = load(x + width + i, width - i);
      if (bias != nullptr) {
        a += load(bias + i, width - i);
        b += load(bias + width + i, width - i);
      }
      store(a * gelu(b), y + i, width - i);
    }
}

// All of a product. Few rows: they are packed once, and every thread takes groups of columns, with
// weights that it packs as it goes. Many: the weights are packed once, and every thread takes rows.
static void run(const MatMul& m, const Runner& runner) {
  const size_t groups = (m.width + 31) / 32, blocks = (m.rows + 31) / 32;
  const size_t gates = m.gated ? 2 : 1, of_block = steps_of(m.length) * kStep;
  const auto left = [&](size_t block, uint32_t* a) {
    pack_left(m.x + 32 * block * m.length, m.length, std::min<size_t>(32, m.rows - 32 * block),
              m.length, a);
  };
  // the sums of a block and group
  const auto multiply = [&](const uint32_t* a, const uint32_t* b, size_t from, size_t to,
                            float* sums) {
    for (size_t gate = 0; gate < gates; ++gate)
      product(a + steps_of(from) * kStep,
              packed_right(b + gate * steps_of(to - from) * kStep, kInLine.data()), steps_of(to - from),
              from > 0, sums + 1024 * gate, 32);
  };
  const auto done = [&](size_t block, size_t group, const float* sums) {
    finish(m, 32 * block, std::min<size_t>(32, m.rows - 32 * block), group, sums);
  };
  constexpr size_t kFew = 8;  // blocks
  if (blocks <= kFew) {
    auto rows = runner.words(blocks * of_block);
    runner.parallel(blocks, [&](size_t block) { left(block, rows.get() + block * of_block); });
    runner.parallel(groups, [&](size_t group) {
      auto own = runner.words(gates * steps_of(kLength) * kStep);
      auto sums = runner.floats(blocks * gates * 1024);
      const Tiles tiles;
      for (size_t from = 0; from < m.length; from += kLength) {
        const size_t to = std::min(from + kLength, m.length);
        for (size_t gate = 0; gate < gates; ++gate)
          pack_columns(m, group, gate, from, to, own.get() + gate * steps_of(to - from) * kStep);
        for (size_t block = 0; block < blocks; ++block)
          multiply(rows.get() + block * of_block, own.get(), from, to,
                   sums.get() + block * gates * 1024);
      }
      for (size_t block = 0; block < blocks; ++block)
        done(block, group, sums.get() + block * gates * 1024);
    });
    return;
  }
  auto weights = runner.words(groups * gates * of_block);
  runner.parallel(groups, [&](size_t group) {
    uint32_t* to_group = weights.get() + group * gates * of_block;
    for (size_t from = 0; from < m.length; from += kLength) {
      const size_t to = std::min(from + kLength, m.length);
      for (size_t gate = 0; gate < gates; ++gate, to_group += steps_of(to - from) * kStep)
        pack_columns(m, group, gate, from, to, to_group);
    }
  });
  runner.parallel((blocks + kFew - 1) / kFew, [&](size_t index) {
    const size_t first = index * kFew, last = std::min(first + kFew, blocks);
    auto rows = runner.words(kFew * of_block);
    auto sums = runner.floats(gates * 1024);
    for (size_t block = first; block < last; ++block)
      left(block, rows.get() + (block - first) * of_block);
    const Tiles tiles;
    for (size_t group = 0; group < groups; ++group)
      for (size_t block = first; block < last; ++block) {
        const uint32_t* b = weights.get() + group * gates * of_block;
        for (size_t from = 0; from < m.length; from += kLength) {
          const size_t to = std::min(from + kLength, m.length);
          multiply(rows.get() + (block - first) * of_block, b, from, to, sums.get());
          b += gates * steps_of(to - from) * kStep;
        }
        done(block, group, sums.get());
      }
  });
}
