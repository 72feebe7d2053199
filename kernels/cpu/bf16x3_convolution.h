// Convolutions by bfloat16 products (bf16x3_tiles.h); included once for each instruction set.
//
// A rectangle of the output is taken as one line of positions, its rows one behind the other, each
// as long as the rows of the input beneath it. A tap of the kernel is then the same line of the
// input, further on by a fixed number of positions, and no edge needs a case of its own: what falls
// between two rows is computed and left behind. With stride 2 the input is four such pictures, of
// even and odd rows and columns.

constexpr size_t kGroup = 32;   // output channels of a product
constexpr size_t kDepth = 128;  // input channels whose weights are at hand together
constexpr size_t kMostWidth = 64;
constexpr size_t kSlack = 64;  // positions that the last product reads beyond the last one needed

// A rectangle of the output, and how its input lies in memory: for every pair of channels the
// words of its positions, `row` apart.
struct Region {
  size_t top, left, height, width;
  size_t line, plane, row;  // words of a row of positions, of a picture of one parity, of a pair

  Region(const Convolution& c, size_t top, size_t left, size_t height, size_t width)
      : top(top), left(left), height(height), width(width) {
    const size_t reach = (c.kernel - 1) / c.stride;
    line = width + reach;
    plane = (height + reach) * line;
    row = (plane * c.stride * c.stride + kSlack + 15) / 16 * 16;
    if (row / 16 % 2 == 0) row += 16;  // an even number of lines would share sets of the cache
  }

  size_t products() const { return (height * line + 31) / 32; }
  size_t scratch_width() const { return products() * 32 + 16; }
};

static inline size_t pairs_of(size_t channels) { return (channels + 31) / 32 * 16; }

// One row of the input of a channel, normalised, activated, and padded with zeros.
static inline void read_row(const Convolution& c, size_t channel, ptrdiff_t y, ptrdiff_t from,
                            size_t count, float* row) {
  if (channel >= c.channels_in || y < 0 || y >= ptrdiff_t(c.height)) {
    std::memset(row, 0, count * sizeof(float));
    return;
  }
  const float* const source = c.x + (channel * c.height + size_t(y)) * c.width;
  const size_t before = size_t(std::max<ptrdiff_t>(0, -from));
  const ptrdiff_t within = std::min(ptrdiff_t(count), ptrdiff_t(c.width) - from);
  const size_t end = size_t(std::max<ptrdiff_t>(ptrdiff_t(before), within));
  std::memset(row, 0, before * sizeof(float));
  std::memset(row + end, 0, (count - end) * sizeof(float));
  if (c.scale == nullptr) {
    std::memcpy(row + before, source + from + ptrdiff_t(before), (end - before) * sizeof(float));
    return;
  }
  const Vector scale = Vector{} + c.scale[channel], shift = Vector{} + c.shift[channel];
  for (size_t i = before; i < end; i += 16) {
    Vector v = load(source + from + ptrdiff_t(i), end - i) * scale + shift;
    if (c.silu) v = silu(v);
    store(v, row + i, end - i);
  }
}

struct EverySecond {
  static constexpr int at(int i) { return 2 * i; }
};

// The pairs `from` to `to` of a region's input.
static void pack_input(const Convolution& c, const Region& r, size_t from, size_t to, uint32_t* hi,
                       uint32_t* lo) {
  alignas(64) float rows[2][2 * kMostWidth + 64];
  const size_t stride = c.stride, reach = (c.kernel - 1) / stride;
  const size_t count = r.line * stride;
  for (size_t pair = from; pair < to; ++pair) {
    uint32_t *const of_hi = hi + pair * r.row, *const of_lo = lo + pair * r.row;
    for (size_t y = 0; y < (r.height + reach) * stride; ++y) {
      for (size_t i = 0; i < 2; ++i)
        read_row(c, 2 * pair + i, ptrdiff_t(r.top * stride + y) - ptrdiff_t(c.pad_top),
                 ptrdiff_t(r.left * stride) - ptrdiff_t(c.pad_left), count, rows[i]);
      for (size_t parity = 0; parity < stride; ++parity) {
        const size_t place = (y % stride * stride + parity) * r.plane + y / stride * r.line;
        for (size_t x = 0; x < r.line; x += 16) {
          const size_t left = r.line - x, first = x * stride + parity;
          Words hi_words, lo_words;
          if (stride == 1) {
            split_pairs(load(rows[0] + first, left), load(rows[1] + first, left), &hi_words,
                        &lo_words);
          } else {
            const float *const a = rows[0] + first, *const b = rows[1] + first;
            split_pairs(take<EverySecond>(load(a, 16), load(a + 16, 16)),
                        take<EverySecond>(load(b, 16), load(b + 16, 16)), &hi_words, &lo_words);
          }
          store(number(hi_words), reinterpret_cast<float*>(of_hi + place + x), left);
          store(number(lo_words), reinterpret_cast<float*>(of_lo + place + x), left);
        }
      }
    }
    const size_t end = r.plane * stride * stride;
    std::memset(of_hi + end, 0, (r.row - end) * sizeof(uint32_t));
    std::memset(of_lo + end, 0, (r.row - end) * sizeof(uint32_t));
  }
}

static inline size_t steps_of(const Convolution& c, size_t channels) {
  return (channels + 31) / 32 * c.kernel * c.kernel;
}

// Where number `tap` of nine lies in the kernels of 16 channels, one behind the other.
template <int tap>
struct OfTap {
  static constexpr int at(int lane) { return 9 * lane + tap; }
};

template <int tap>
static inline __attribute__((always_inline)) Vector taken_of(const Vector v[10]) {
  const Integers lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const Integers of_pair = (9 * lanes + tap) >> 5;  // of which two vectors
  Vector found = take<OfTap<tap>>(v[0], v[1]);
  found = of_pair == 1 ? take<OfTap<tap>>(v[2], v[3]) : found;
  found = of_pair == 2 ? take<OfTap<tap>>(v[4], v[5]) : found;
  found = of_pair == 3 ? take<OfTap<tap>>(v[6], v[7]) : found;
  return of_pair == 4 ? take<OfTap<tap>>(v[8], v[9]) : found;
}

template <int... tap>
static inline void take_taps(const Vector v[10], Vector taps[9],
                             std::integer_sequence<int, tap...>) {
  ((taps[tap] = taken_of<tap>(v)), ...);
}

// The 3×3 kernels of 16 channels, one behind the other, as a vector a tap.
static inline void taps_of(const float* from, Vector taps[9]) {
  Vector v[10];
  for (int i = 0; i < 9; ++i) v[i] = *reinterpret_cast<const Unaligned*>(from + 16 * i);
  v[9] = v[8];
  take_taps(v, taps, std::make_integer_sequence<int, 9>());
}

// The weights of one group of output channels and the input channels `from` to `to`: a step of A
// for every 32 input channels and tap.
static void pack_weights(const Convolution& c, size_t group, size_t from, size_t to, uint32_t* a) {
  const size_t taps = c.kernel * c.kernel;
  for (size_t channel = from; channel < to; channel += 32) {
    const size_t count = std::min<size_t>(32, c.channels_in - channel);
    for (size_t r = 0; r < kGroup; ++r) {
      const size_t out = group * kGroup + r;
      uint32_t* const to_row = a + r / 16 * kTile + r % 16 * 16;
      alignas(64) float padded[32 * 9];
      const size_t place = (out * c.channels_in + channel) * taps, length = count * taps;
      const float* kernels = c.w.single + place;
      if (count < 32 || out >= c.channels_out || c.w.single == nullptr) {
        kernels = padded;
        if (count < 32 || out >= c.channels_out) std::memset(padded, 0, sizeof(padded));
        if (out < c.channels_out && c.w.single != nullptr)
          std::memcpy(padded, c.w.single + place, length * sizeof(float));
        else if (out < c.channels_out)
          for (size_t i = 0; i < length; i += 16)
            store(load(c.w.half + place + i, length - i), padded + i, length - i);
      }
      Vector low[9], high[9];
      if (taps == 1) {
        low[0] = load(kernels, 16);
        high[0] = load(kernels + 16, 16);
      } else {
        taps_of(kernels, low);
        taps_of(kernels + 16 * 9, high);
      }
      for (size_t tap = 0; tap < taps; ++tap)
        store_left(low[tap], high[tap], to_row + tap * kStep, to_row + tap * kStep + 2 * kTile);
    }
    a += taps * kStep;
  }
}

// One group of output channels in a region: sums over the input channels `from` to `to` in `sums`.
static void multiply(const Convolution& c, const Region& r, size_t from, size_t to,
                     const uint32_t* a, const uint32_t* hi, const uint32_t* lo, float* sums) {
  ptrdiff_t offsets[9 * kDepth / 32];
  size_t steps = 0;
  for (size_t channel = from; channel < to; channel += 32)
    for (size_t tap = 0; tap < c.kernel * c.kernel; ++tap) {
      const size_t y = tap / c.kernel, x = tap % c.kernel;
      const size_t parity = y % c.stride * c.stride + x % c.stride;
      offsets[steps++] = ptrdiff_t(channel / 2 * r.row + parity * r.plane +
                                   y / c.stride * r.line + x / c.stride);
    }
  for (size_t i = 0; i < r.products(); ++i) {
    const Right right = {hi + 32 * i, lo + 32 * i, offsets, r.row, 16};
    product(a, right, steps, from > 0, sums + 32 * i, r.scratch_width());
  }
}

// The sums of a group, with bias and what is added, to their places in the output.
static void finish(const Convolution& c, const Region& r, size_t group, const float* sums) {
  const size_t rows = std::min(kGroup, c.channels_out - group * kGroup);
  for (size_t i = 0; i < rows; ++i) {
    const size_t out = group * kGroup + i;
    float constant = c.bias == nullptr ? 0.0f : c.bias[out];
    if (c.added != nullptr && !c.added_whole) constant += c.added[out];
    for (size_t y = 0; y < r.height; ++y) {
      const size_t place = (out * c.out_height + r.top + y) * c.out_width + r.left;
      const float* const from = sums + i * r.scratch_width() + y * r.line;
      for (size_t x = 0; x < r.width; x += 16) {
        const size_t left = r.width - x;
        Vector v = load(from + x, left) + constant;
        if (c.added_whole) v += load(c.added + place + x, left);
        store(v, c.y + place + x, left);
      }
    }
  }
}

// All of a group, from packed weights, or from weights packed here where `a` is null; `scratch`
// holds the sums and, in that case, the weights of kDepth channels.
static void convolve(const Convolution& c, const Region& r, size_t group, const uint32_t* a,
                     const uint32_t* hi, const uint32_t* lo, float* scratch) {
  uint32_t* const own = reinterpret_cast<uint32_t*>(scratch + kGroup * r.scratch_width());
  for (size_t from = 0; from < c.channels_in; from += kDepth) {
    const size_t to = std::min(from + kDepth, c.channels_in);
    if (a == nullptr) pack_weights(c, group, from, to, own);
    multiply(c, r, from, to, a == nullptr ? own : a, hi, lo, scratch);
    if (a != nullptr) a += steps_of(c, to - from) * kStep;
  }
  finish(c, r, group, scratch);
}

// The whole convolution. Small pictures are one region: its input is packed once, and every thread
// takes groups of output channels, with weights that it packs as it goes. Of large ones the weights
// are packed once, and every thread takes regions.
static void run(const Convolution& c, const Runner& runner) {
  const size_t groups = (c.channels_out + kGroup - 1) / kGroup;
  const size_t pairs = pairs_of(c.channels_in);
  const size_t packed = steps_of(c, kDepth) * kStep;
  if (c.out_width <= kMostWidth && c.out_height <= kMostWidth) {
    const Region whole(c, 0, 0, c.out_height, c.out_width);
    auto input = runner.words(2 * pairs * whole.row);
    uint32_t *const hi = input.get(), *const lo = hi + pairs * whole.row;
    runner.parallel(pairs / 16, [&](size_t i) {
      pack_input(c, whole, 16 * i, 16 * i + 16, hi, lo);
    });
    runner.parallel(groups, [&](size_t group) {
      auto scratch = runner.floats(kGroup * whole.scratch_width() + packed);
      const Tiles tiles;
      convolve(c, whole, group, nullptr, hi, lo, scratch.get());
    });
    return;
  }
  const size_t all = steps_of(c, c.channels_in) * kStep;
  auto weights = runner.words(groups * all);
  runner.parallel(groups, [&](size_t group) {
    pack_weights(c, group, 0, c.channels_in, weights.get() + group * all);
  });
  // about a megabyte of input, so that it stays in a core's own cache
  const size_t width = std::min(c.out_width, pairs > 192 / c.stride ? kMostWidth / 2 : kMostWidth);
  const size_t fit = (1 << 20) / (pairs * 8 * (width + 2) * c.stride * c.stride);
  const size_t height = std::min<size_t>(16, std::max<size_t>(6, fit) - 2);
  const size_t across = (c.out_width + width - 1) / width;
  const size_t down = (c.out_height + height - 1) / height;
  runner.parallel(across * down, [&](size_t index) {
    const size_t top = index / across * height, left = index % across * width;
    const Region r(c, top, left, std::min(height, c.out_height - top),
                   std::min(width, c.out_width - left));
    auto input = runner.words(2 * pairs * r.row);
    auto scratch = runner.floats(kGroup * r.scratch_width());
    uint32_t *const hi = input.get(), *const lo = hi + pairs * r.row;
    pack_input(c, r, 0, pairs, hi, lo);
    const Tiles tiles;
    for (size_t group = 0; group < groups; ++group)
      convolve(c, r, group, weights.get() + group * all, hi, lo, scratch.get());
  });
}
