// softmax(Q Kᵀ · scale) V by bfloat16 products (bf16x3_tiles.h); included once for each
// instruction set. Logits and probabilities exist for 32 queries and kKeys keys at a time, the sum
// over keys is carried along and rescaled where a larger logit comes (Dao et al., FlashAttention,
// algorithm 1).

constexpr size_t kKeys = 256;
constexpr size_t kQueries = 256;  // of a task

// Tiles of B for the transpose of up to 32 rows: what A's packing gives, its 32-bit words
// transposed, since a row's pairs lie side by side.
static inline void transpose_tiles(const uint32_t* a, size_t steps, uint32_t* b) {
  for (size_t tile = 0; tile < 4 * steps; ++tile)
    for (size_t i = 0; i < 16; ++i)
      for (size_t j = 0; j < 16; ++j) b[tile * kTile + j * 16 + i] = a[tile * kTile + i * 16 + j];
}

// Of one head: blocks of 32 keys, then of values.
static void pack_keys(const Attention& t, size_t batch, size_t head, size_t block, uint32_t* keys,
                      uint32_t* values) {
  const size_t steps = steps_of(t.depth), first = 32 * block;
  const size_t rows = std::min<size_t>(32, t.keys - first), apart = t.heads * t.depth;
  const size_t place = (batch * t.keys + first) * apart + head * t.depth;
  auto own = std::make_unique<uint32_t[]>(steps * kStep + 16);
  uint32_t* const aligned = own.get() + (64 - reinterpret_cast<uintptr_t>(own.get()) % 64) % 64 / 4;
  pack_left(t.k + place, apart, rows, t.depth, aligned);
  transpose_tiles(aligned, steps, keys + block * steps * kStep);
  for (size_t group = 0; group < steps; ++group)
    pack_right(t.v + place + 32 * group, apart, t.depth - 32 * group, rows,
               values + (block * steps + group) * kStep);
}

// exp(logits · scale − the row's largest so far) of 32 queries and up to kKeys keys, as A's steps;
// returns in `factors` what the sums so far are to be multiplied by. To the base of 2.
static void soften(float* logits, size_t keys, float scale, float* largest, float* sums,
                   float* factors, uint32_t* a) {
  scale *= 1.44269504088896341f;
  const size_t all = (keys + 31) / 32 * 32;
  for (size_t r = 0; r < 32; ++r) {
    float* const row = logits + r * kKeys;
    for (size_t k = keys; k < all; ++k) row[k] = -INFINITY;
    factors[r] = largest[r];
    largest[r] = std::max(largest[r], scale * largest_of(row, all));
  }
  for (size_t i = 0; i < 2; ++i) {
    auto& before = reinterpret_cast<Vector*>(factors)[i];
    before = power_of_two(before - reinterpret_cast<const Vector*>(largest)[i]);
  }
  for (size_t r = 0; r < 32; ++r) {
    const auto* const v = reinterpret_cast<const Vector*>(logits + r * kKeys);
    const float found = largest[r];
    Vector total[2] = {};
    for (size_t i = 0; i < all / 16; i += 2) {
      Vector parts[2];
      for (size_t half = 0; half < 2; ++half)
        total[half] += parts[half] = power_of_two(v[i + half] * scale - found);
      uint32_t* const to = a + i / 2 * kStep + r / 16 * kTile + r % 16 * 16;
      store_left(parts[0], parts[1], to, to + 2 * kTile);
    }
    sums[r] = sums[r] * factors[r] + sum_of(total[0] + total[1]);
  }
}

// Tiles of a block of 32 queries (A), of keys and of values (B, `groups` of 32 columns a block).
struct Mixing {
  const uint32_t *queries, *keys, *values;
  size_t steps, groups, count;  // of the sums that are logits; of columns; keys
  float scale;
};

// How many numbers, and words, `mix` works with.
static inline size_t mixing_floats(size_t groups) { return 32 * (kKeys + 32 * groups + 3); }
constexpr size_t kMixingWords = kKeys / 32 * kStep;

// softmax(q kᵀ · scale) v of 32 queries, not yet divided by what the softmax adds up to: rows of
// 32 · groups numbers, which are returned, and their divisors behind them.
static const float* mix(const Mixing& m, float* floats, uint32_t* softened) {
  const size_t width = 32 * m.groups;
  float *const mixed = floats, *const sums = mixed + 32 * width, *const largest = sums + 32;
  float *const factors = largest + 32, *const logits = factors + 32;
  ptrdiff_t down[kKeys / 32];  // the steps of a group of values
  for (size_t i = 0; i < kKeys / 32; ++i) down[i] = ptrdiff_t(i * m.groups * kStep);
  for (size_t r = 0; r < 32; ++r) largest[r] = -INFINITY, sums[r] = 0.0f;
  for (size_t key = 0; key < m.count; key += kKeys) {
    const size_t count = std::min(kKeys, m.count - key), chunks = (count + 31) / 32;
    for (size_t i = 0; i < chunks; ++i)
      product(m.queries, packed_right(m.keys + (key / 32 + i) * m.steps * kStep, kInLine.data()),
              m.steps, false, logits + 32 * i, kKeys);
    soften(logits, count, m.scale, largest, sums, factors, softened);
    if (key > 0)
      for (size_t r = 0; r < 32; ++r)
        for (size_t i = 0; i < width; i += 16)
          *reinterpret_cast<Vector*>(mixed + r * width + i) *= factors[r];
    for (size_t group = 0; group < m.groups; ++group)
      product(softened, packed_right(m.values + (key / 32 * m.groups + group) * kStep, down),
              chunks, key > 0, mixed + 32 * group, width);
  }
  return mixed;
}

static void run(const Attention& t, const Runner& runner) {
  const size_t steps = steps_of(t.depth), blocks = (t.keys + 31) / 32;
  const size_t of_head = blocks * steps * kStep, pictures = t.batch * t.heads;
  auto packed = runner.words(2 * pictures * of_head);
  uint32_t *const keys = packed.get(), *const values = keys + pictures * of_head;
  const size_t parts = (blocks + 31) / 32;
  runner.parallel(pictures * parts, [&](size_t index) {
    const size_t picture = index / parts, first = index % parts * 32;
    for (size_t block = first; block < std::min(first + 32, blocks); ++block)
      pack_keys(t, picture / t.heads, picture % t.heads, block, keys + picture * of_head,
                values + picture * of_head);
  });
  const size_t tasks = (t.queries + kQueries - 1) / kQueries;
  runner.parallel(pictures * tasks, [&](size_t index) {
    const size_t picture = index / tasks, batch = picture / t.heads, head = picture % t.heads;
    const uint32_t* const of_keys = keys + picture * of_head;
    const uint32_t* const of_values = values + picture * of_head;
    auto words = runner.words(steps * kStep + kMixingWords);
    uint32_t* const a = words.get();
    const size_t width = 32 * steps, apart = t.heads * t.depth;
    auto floats = runner.floats(mixing_floats(steps));
    const Mixing mixing{a, of_keys, of_values, steps, steps, t.keys, t.scale};
    const Tiles tiles;
    const size_t end = std::min((index % tasks + 1) * kQueries, t.queries);
    for (size_t query = index % tasks * kQueries; query < end; query += 32) {
      const size_t rows = std::min<size_t>(32, end - query);
      const size_t place = (batch * t.queries + query) * apart + head * t.depth;
      pack_left(t.q + place, apart, rows, t.depth, a);
      const float* const mixed = mix(mixing, floats.get(), a + steps * kStep);
      const float* const sums = mixed + 32 * width;
      for (size_t r = 0; r < rows; ++r)
        for (size_t i = 0; i < t.depth; i += 16)
          store(load(mixed + r * width + i, 16) / sums[r], t.y + place + r * apart + i, t.depth - i);
    }
  });
}
