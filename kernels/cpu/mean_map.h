// Rows of the mean over heads of softmax(Q Kᵀ) in float32, with AVX-512. Of 64 rows at a time: what
// they add up to stays in a core's cache while the heads' keys go by.
namespace mean {

constexpr size_t kRows = 64, kBlock = 32, kTogether = 8;  // rows; of them logits; of them sums

// So that the rows of a block's logits do not all fall into one set of the first cache.
static inline size_t logits_apart(size_t keys) { return (keys + 31) / 32 * 32 + 16; }

// Of a head's keys, packed: blocks of 32, transposed.
static size_t packed_size(size_t keys, size_t depth) { return (keys + 31) / 32 * 32 * depth; }

static void pack(const float* k, size_t keys, size_t depth, float* packed) {
  for (size_t key = 0; key < (keys + 31) / 32 * 32; ++key)
    for (size_t i = 0; i < depth; ++i)
      packed[key / 32 * 32 * depth + 32 * i + key % 32] = key < keys ? k[key * depth + i] : 0.0f;
}

// q kᵀ of `kTogether` queries and all keys.
static void logits_of(const float* q, const float* packed, size_t depth, size_t keys,
                      float* logits) {
  for (size_t key = 0; key < keys; key += 32, packed += 32 * depth) {
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
        store(sums[r][half], logits + r * logits_apart(keys) + key + 16 * half, 16);
  }
}

// 2^x for x up to 0, within 1e-7 of it; 0 for −∞.
static inline Vector power_of_two(Vector x) {
  const Vector f = reinterpret_cast<Vector>(_mm512_reduce_ps(reinterpret_cast<__m512>(x), 0x09));
  Vector p = f * 1.877575940e-3f + 8.989341870e-3f;  // f = x − ⌊x⌋
  p = p * f + 5.582631656e-2f;
  p = p * f + 2.401536175e-1f;
  p = p * f + 6.931530731e-1f;
  p = p * f + 9.999999251e-1f;
  const __m512 power = reinterpret_cast<__m512>(p);  // masked: GCC 12 warns of its own plain one
  return reinterpret_cast<Vector>(
      _mm512_mask_scalef_ps(power, 0xffff, power, reinterpret_cast<__m512>(x)));
}

// total (+)= share · softmax of one row, to the base of 2.
static void add_softmax(float* logits, size_t keys, float share, bool more, float* total) {
  const size_t padded = (keys + 15) / 16 * 16;
  for (size_t k = keys; k < padded; ++k) logits[k] = -INFINITY;
  Vector most[4];
  for (Vector& m : most) m = Vector{} - INFINITY;
  for (size_t k = 0; k < padded; k += 16) {
    const Vector v = *reinterpret_cast<const Vector*>(logits + k);
    Vector& m = most[k / 16 % 4];
    m = v > m ? v : m;
  }
  float largest = -INFINITY;
  for (const Vector& m : most)
    for (size_t i = 0; i < 16; ++i) largest = std::max(largest, m[i]);
  Vector sums = {};
  for (size_t k = 0; k < padded; k += 16) {
    Vector& v = *reinterpret_cast<Vector*>(logits + k);
    v = power_of_two(v - largest);
    sums += v;
  }
  float sum = 0.0f;
  for (size_t i = 0; i < 16; ++i) sum += sums[i];
  const float factor = share / sum;
  for (size_t k = 0; k < keys; k += 16) {
    Vector v = *reinterpret_cast<const Vector*>(logits + k) * factor;
    if (more) v += load(total + k, keys - k);
    store(v, total + k, keys - k);
  }
}

static void rows(const MeanRows& m, Scratch& scratch) {
  size_t deepest = 0;
  for (size_t h = 0; h < m.count; ++h) deepest = std::max(deepest, m.heads[h].depth);
  auto scaled = scratch.lend<float>(kBlock * deepest);
  auto logits = scratch.lend<float>(kBlock * logits_apart(m.keys));
  for (size_t from = 0; from < m.rows; from += kRows)
    for (size_t h = 0; h < m.count; ++h)
      for (size_t row = from; row < std::min(from + kRows, m.rows); row += kBlock) {
        const Head& head = m.heads[h];
        const size_t rows = std::min(kBlock, m.rows - row);
        for (size_t i = 0; i < kBlock * head.depth; ++i)  // e^x = 2^(x · log₂ e)
          scaled[i] = i < rows * head.depth
                          ? head.q[row * head.depth + i] * 1.44269504088896341f : 0.0f;
        for (size_t r = 0; r < rows; r += kTogether)
          logits_of(scaled.get() + r * head.depth, head.keys, head.depth, m.keys,
                    logits.get() + r * logits_apart(m.keys));
        for (size_t r = 0; r < rows; ++r)
          add_softmax(logits.get() + r * logits_apart(m.keys), m.keys, 1.0f / float(m.count), h > 0,
                      m.total + (row + r) * m.keys);
      }
}

static constexpr MeanMap kernels = {packed_size, pack, rows};

}  // namespace mean
