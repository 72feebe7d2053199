// Rows of the mean over heads of softmax(Q Kᵀ) in float32, with AVX-512. Of 64 rows at a time: what
// they add up to stays in a core's cache while the heads' keys go by. Every kChunk keys have a
// largest logit of their own, and what it is less than the row's is made up for where a head's
// shares are added.
namespace mean {

constexpr size_t kRows = 64, kBlock = 32, kChunk = 256;
constexpr size_t kApart = kChunk + 16;  // numbers between rows of logits

static inline size_t padded(size_t count, size_t to) { return (count + to - 1) / to * to; }

// So that the rows of a block do not all fall into one set of the first cache.
static inline size_t row_size(size_t keys) { return padded(keys, 32) + 16; }

// Blocks of 32 keys, transposed.
static size_t packed_size(size_t keys, size_t depth) { return padded(keys, 32) * depth; }

static void pack(const float* k, size_t keys, size_t depth, float* packed) {
  for (size_t key = 0; key < padded(keys, 32); ++key)
    for (size_t i = 0; i < depth; ++i)
      packed[key / 32 * 32 * depth + 32 * i + key % 32] = key < keys ? k[key * depth + i] : 0.0f;
}

static void logits_of(const float* queries, const float* packed, size_t depth, size_t first,
                      size_t count, float* logits) {
  constexpr size_t kTogether = 8;  // rows of sums
  packed += first * depth;
  for (size_t key = 0; key < count; key += 32, packed += 32 * depth)
    for (size_t row = 0; row < kBlock; row += kTogether) {
      const float* const q = queries + row * depth;
      Vector sums[kTogether][2] = {};
      for (size_t k = 0; k < depth; ++k) {
        const Vector low = load(packed + 32 * k, 16), high = load(packed + 32 * k + 16, 16);
        for (size_t r = 0; r < kTogether; ++r) {
          sums[r][0] += q[r * depth + k] * low;
          sums[r][1] += q[r * depth + k] * high;
        }
      }
      for (size_t r = 0; r < kTogether; ++r)
        for (size_t half = 0; half < 2; ++half)
          store(sums[r][half], logits + (row + r) * kApart + key + 16 * half, 16);
    }
}

// 2^(logits − their largest) of a row's `count` keys, and what they add up to.
static inline void soften(float* logits, size_t count, float* softened, float* largest,
                          float* sum) {
  const size_t all = padded(count, 32);
  for (size_t k = count; k < all; ++k) logits[k] = -INFINITY;
  const auto* const v = reinterpret_cast<const Vector*>(logits);
  auto* const to = reinterpret_cast<Vector*>(softened);
  *largest = largest_of(logits, all);
  Vector sums[2] = {};
  for (size_t i = 0; i < all / 16; i += 2)
    for (size_t half = 0; half < 2; ++half)
      sums[half] += to[i + half] = power_of_two(v[i + half] - *largest);
  *sum = sum_of(sums[0] + sums[1]);
}

// total (+)= share · softmax of a row that is softened kChunk at a time; `largest` and `sums` of
// these, up to a multiple of 16 with −∞ and 0 behind the last, as many `factors` to work with.
static void add_shares(const float* row, size_t keys, float share, bool more, const float* largest,
                       const float* sums, float* factors, float* total) {
  const size_t parts = (keys + kChunk - 1) / kChunk;
  float most = largest[0];
  for (size_t i = 1; i < parts; ++i) most = std::max(most, largest[i]);
  Vector all = {};
  for (size_t i = 0; i < padded(parts, 16); i += 16) {
    const Vector less = *reinterpret_cast<const Vector*>(largest + i) - most;
    all += (*reinterpret_cast<Vector*>(factors + i) = power_of_two(less)) *
           *reinterpret_cast<const Vector*>(sums + i);
  }
  share /= sum_of(all);
  for (size_t k = 0; k < keys; k += 16) {
    Vector v = *reinterpret_cast<const Vector*>(row + k) * (factors[k / kChunk] * share);
    if (more) v += load(total + k, keys - k);
    store(v, total + k, keys - k);
  }
}

static void rows(const MeanRows& m, Scratch& scratch) {
  size_t deepest = 0;
  for (size_t h = 0; h < m.count; ++h) deepest = std::max(deepest, m.heads[h].depth);
  const size_t parts = padded((m.keys + kChunk - 1) / kChunk, 16), apart = row_size(m.keys);
  auto scaled = scratch.lend<float>(kBlock * deepest);
  auto logits = scratch.lend<float>(kBlock * kApart);
  auto softened = scratch.lend<float>(kBlock * apart);
  auto largest = scratch.lend<float>(kBlock * parts), sums = scratch.lend<float>(kBlock * parts);
  auto factors = scratch.lend<float>(parts);
  std::fill_n(largest.get(), kBlock * parts, -INFINITY);
  std::fill_n(sums.get(), kBlock * parts, 0.0f);
  for (size_t from = 0; from < m.rows; from += kRows)
    for (size_t h = 0; h < m.count; ++h)
      for (size_t row = from; row < std::min(from + kRows, m.rows); row += kBlock) {
        const Head& head = m.heads[h];
        const size_t rows = std::min(kBlock, m.rows - row);
        for (size_t i = 0; i < kBlock * head.depth; ++i)  // e^x = 2^(x · log₂ e)
          scaled[i] = i < rows * head.depth
                          ? head.q[row * head.depth + i] * 1.44269504088896341f : 0.0f;
        for (size_t key = 0; key < m.keys; key += kChunk) {
          const size_t count = std::min(kChunk, m.keys - key), part = key / kChunk;
          logits_of(scaled.get(), head.keys, head.depth, key, count, logits.get());
          for (size_t r = 0; r < rows; ++r)
            soften(logits.get() + r * kApart, count, softened.get() + r * apart + key,
                   &largest[r * parts + part], &sums[r * parts + part]);
        }
        for (size_t r = 0; r < rows; ++r)
          add_shares(softened.get() + r * apart, m.keys, 1.0f / float(m.count), h > 0,
                     &largest[r * parts], &sums[r * parts], factors.get(),
                     m.total + (row + r) * m.keys);
      }
}

static constexpr MeanMap kernels = {packed_size, pack, rows};

}  // namespace mean
