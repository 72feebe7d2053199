// What meets full resolution, with AVX-512: maps interpolated bilinearly at every pixel, 16 classes
// at a time, and never stored there.
namespace upsampled {

// The two inputs between which an output's centre lies, and the share of the second.
struct Tap {
  size_t low, high;
  float far;
};

static std::vector<Tap> taps(const Axis& axis) {
  std::vector<Tap> all(axis.outputs);
  for (size_t i = 0; i < axis.outputs; ++i) {
    const double place = std::min(std::max((double(i) + 0.5) * axis.step - 0.5, 0.0),
                                  double(axis.inputs - 1));
    all[i].low = size_t(place);
    all[i].high = std::min(all[i].low + 1, axis.inputs - 1);
    all[i].far = float(place - double(all[i].low));
  }
  return all;
}

// maps (classes, inputs) → (inputs, 16), zeros for classes that there are not.
static void pack(const float* maps, size_t classes, size_t inputs, size_t apart, float* packed) {
  for (size_t i = 0; i < inputs; ++i)
    for (size_t c = 0; c < 16; ++c)
      packed[i * apart + c] = c < classes ? maps[c * inputs + i] : 0.0f;
}

// first · (1 − share) + second · share, of `count` numbers, 16 at a time.
static void between(const float* first, const float* second, float share, size_t count, float* to) {
  for (size_t i = 0; i < count; i += 16) {
    const Vector a = load(first + i, 16), b = load(second + i, 16);
    store(a * (1.0f - share) + b * share, to + i, 16);
  }
}

constexpr size_t kFit = 64;  // numbers a cell: three slopes and an offset, of 16 classes

typedef double Wide __attribute__((vector_size(64), aligned(64), may_alias));
typedef float Half __attribute__((vector_size(32), aligned(32), may_alias));

// wide += sign · x, of the numbers of a cell.
template <typename Number>
static inline void accumulate(const Number* x, double sign, double* wide) {
  typedef Number Eight __attribute__((vector_size(8 * sizeof(Number)), aligned(8 * sizeof(Number)), may_alias));
  for (size_t i = 0; i < kFit; i += 8)
    *reinterpret_cast<Wide*>(wide + i) +=
        __builtin_convertvector(*reinterpret_cast<const Eight*>(x + i), Wide) * sign;
}

// The means over windows, clipped at the borders, of (height, width, kFit): read(y) gives a row,
// write(y, means) takes one. Sums run along columns, then along rows, in double: what enters is
// what leaves.
template <typename Read, typename Write>
static void average(size_t height, size_t width, size_t radius, Scratch& scratch, const Read& read,
                    const Write& write) {
  auto columns = scratch.lend<double>(width * kFit), run = scratch.lend<double>(kFit);
  auto means = scratch.lend<float>(width * kFit);
  std::fill(columns.get(), columns.get() + width * kFit, 0.0);
  const auto add_row = [&](size_t y, double sign) {
    const float* const row = read(y);
    for (size_t x = 0; x < width; ++x) accumulate(row + x * kFit, sign, columns.get() + x * kFit);
  };
  for (size_t y = 0; y < std::min(radius, height); ++y) add_row(y, 1.0);
  for (size_t y = 0; y < height; ++y) {
    if (y + radius < height) add_row(y + radius, 1.0);
    if (y > radius) add_row(y - radius - 1, -1.0);
    const size_t high = std::min(y + radius, height - 1) + 1 - (y > radius ? y - radius : 0);
    std::fill(run.get(), run.get() + kFit, 0.0);
    for (size_t x = 0; x < std::min(radius, width); ++x)
      accumulate(columns.get() + x * kFit, 1.0, run.get());
    for (size_t x = 0; x < width; ++x) {
      if (x + radius < width) accumulate(columns.get() + (x + radius) * kFit, 1.0, run.get());
      if (x > radius) accumulate(columns.get() + (x - radius - 1) * kFit, -1.0, run.get());
      const size_t wide = std::min(x + radius, width - 1) + 1 - (x > radius ? x - radius : 0);
      const double share = 1.0 / double(high * wide);
      for (size_t i = 0; i < kFit; i += 8)
        *reinterpret_cast<Half*>(means.get() + x * kFit + i) =
            __builtin_convertvector(*reinterpret_cast<const Wide*>(run.get() + i) * share, Half);
    }
    write(y, means.get());
  }
}

static void fits(const EdgeFits& e, Scratch& scratch) {
  const size_t area = e.height * e.width, line = e.width * kFit;
  auto packed = scratch.lend<float>(area * 16), products = scratch.lend<float>(line);
  auto own = scratch.lend<float>(area * kFit);
  pack(e.scores, e.classes, area, 16, packed.get());
  const auto scores_and_products = [&](size_t y) {
    for (size_t x = 0; x < e.width; ++x) {
      const size_t cell = y * e.width + x;
      const Vector p = load(packed.get() + cell * 16, 16);
      float* const to = products.get() + x * kFit;
      for (size_t i = 0; i < 3; ++i) store(p * e.small[i * area + cell], to + 16 * i, 16);
      store(p, to + 48, 16);
    }
    return products.get();
  };
  const auto solve = [&](size_t y, const float* means) {
    for (size_t x = 0; x < e.width; ++x) {
      const size_t cell = y * e.width + x;
      const float* const from = means + x * kFit;
      float* const to = own.get() + cell * kFit;
      const Vector p = load(from + 48, 16);
      Vector together[3], offset = p;
      for (size_t i = 0; i < 3; ++i) together[i] = load(from + 16 * i, 16) - p * e.mean[i * area + cell];
      for (size_t i = 0; i < 3; ++i) {
        Vector slope = {};
        for (size_t j = 0; j < 3; ++j) slope += together[j] * e.inverse[(3 * i + j) * area + cell];
        offset -= slope * e.mean[i * area + cell];
        store(slope, to + 16 * i, 16);
      }
      store(offset, to + 48, 16);
    }
  };
  average(e.height, e.width, e.radius, scratch, scores_and_products, solve);
  average(
      e.height, e.width, e.radius, scratch, [&](size_t y) { return own.get() + y * line; },
      [&](size_t y, const float* means) { std::copy(means, means + line, e.fits + y * line); });
}

template <int kApart>
struct Apart {
  static constexpr int at(int lane) { return lane ^ kApart; }
};

template <int kApart>
static inline Vector larger(Vector x) {
  const Vector other = take<Apart<kApart>>(x, x);
  return x > other ? x : other;
}

template <typename Label>
static void label_rows(const EdgeLabels& e, Scratch& scratch) {
  const size_t w = e.columns.inputs, apart = kFit;
  auto row = scratch.lend<float>(w * apart);
  const std::vector<Tap> down = taps(e.rows), across = taps(e.columns);
  Vector missing = {};
  for (size_t c = e.classes; c < 16; ++c) missing[c] = -INFINITY;
  for (size_t y = e.first; y < e.last; ++y) {
    between(e.fits + down[y].low * w * apart, e.fits + down[y].high * w * apart, down[y].far,
            w * apart, row.get());
    for (size_t x = 0; x < e.columns.outputs; ++x) {
      const Tap& tap = across[x];
      const size_t pixel = y * e.columns.outputs + x;
      const float *left = row.get() + tap.low * apart, *right = row.get() + tap.high * apart;
      Vector score = missing;
      for (size_t map = 0; map < 4; ++map) {
        const float colour = map < 3 ? float(e.image[3 * pixel + map]) / 255.0f : 1.0f;
        score += load(left + 16 * map, 16) * (colour * (1.0f - tap.far));
        score += load(right + 16 * map, 16) * (colour * tap.far);
      }
      const float best = larger<1>(larger<2>(larger<4>(larger<8>(score))))[0];
      if (best > e.best[pixel]) {
        const unsigned winners = _mm512_cmp_ps_mask(
            reinterpret_cast<__m512>(score), _mm512_set1_ps(best), _CMP_EQ_OQ);
        e.best[pixel] = best;
        static_cast<Label*>(e.labels)[pixel] = Label(e.numbers[__builtin_ctz(winners)]);
      }
    }
  }
}

static void labels(const EdgeLabels& e, Scratch& scratch) {
  (e.wide ? label_rows<uint16_t> : label_rows<uint8_t>)(e, scratch);
}

// Row by row of the picture: the maps' row, divided by the norms, is summed into the level's cells
// that it lies between.
static void overlap(const Overlap& o, Scratch& scratch) {
  const size_t gh = o.rows.inputs, gw = o.columns.inputs;
  const size_t h = o.level_rows.inputs, w = o.level_columns.inputs;
  auto packed = scratch.lend<float>(gh * gw * 16), row = scratch.lend<float>(gw * 16);
  auto sums = scratch.lend<float>(h * w * 16), narrow = scratch.lend<float>(w * 16);
  pack(o.maps, o.classes, gh * gw, 16, packed.get());
  std::fill(sums.get(), sums.get() + h * w * 16, 0.0f);
  const std::vector<Tap> down = taps(o.rows), across = taps(o.columns);
  const std::vector<Tap> up = taps(o.level_rows), back = taps(o.level_columns);
  for (size_t y = 0; y < o.rows.outputs; ++y) {
    between(packed.get() + down[y].low * gw * 16, packed.get() + down[y].high * gw * 16,
            down[y].far, gw * 16, row.get());
    std::fill(narrow.get(), narrow.get() + w * 16, 0.0f);
    for (size_t x = 0; x < o.columns.outputs; ++x) {
      const Tap &from = across[x], &to = back[x];
      const Vector left = load(row.get() + 16 * from.low, 16);
      const Vector right = load(row.get() + 16 * from.high, 16);
      const float inverse = 1.0f / o.norms[y * o.columns.outputs + x];
      const Vector value = left * ((1.0f - from.far) * inverse) + right * (from.far * inverse);
      float *const near = narrow.get() + 16 * to.low, *const next = narrow.get() + 16 * to.high;
      store(load(near, 16) + value * (1.0f - to.far), near, 16);
      store(load(next, 16) + value * to.far, next, 16);
    }
    for (size_t i = 0; i < w * 16; i += 16) {
      const Vector value = load(narrow.get() + i, 16);
      float* const above = sums.get() + up[y].low * w * 16 + i;
      float* const below = sums.get() + up[y].high * w * 16 + i;
      store(load(above, 16) + value * (1.0f - up[y].far), above, 16);
      store(load(below, 16) + value * up[y].far, below, 16);
    }
  }
  for (size_t c = 0; c < o.classes; ++c)
    for (size_t i = 0; i < h * w; ++i) o.totals[c * h * w + i] = sums[i * 16 + c];
}

static constexpr Upsampled kernels = {fits, labels, overlap};

}  // namespace upsampled
