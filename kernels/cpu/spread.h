// softmax(Q Kᵀ) values of one head by bfloat16 tiles (bf16x3_attention.h), where all heads share the
// values. No row of the map is ever whole; the keys stay in a core's cache while queries go by.
static void spread(const SpreadHead& s, Scratch& scratch) {
  const size_t steps = steps_of(s.depth), groups = steps_of(s.width), blocks = (s.keys + 31) / 32;
  auto keys = scratch.lend<uint32_t>(blocks * steps * kStep);
  auto values = scratch.lend<uint32_t>(blocks * groups * kStep);
  auto words = scratch.lend<uint32_t>(steps * kStep + kMixingWords);
  auto floats = scratch.lend<float>(mixing_floats(groups));
  uint32_t* const queries = words.get();
  for (size_t block = 0; block < blocks; ++block) {
    const size_t first = 32 * block, rows = std::min<size_t>(32, s.keys - first);
    pack_left(s.k + first * s.depth, s.depth, rows, s.depth, queries);
    transpose_tiles(queries, steps, keys.get() + block * steps * kStep);
    for (size_t group = 0; group < groups; ++group)
      pack_right(s.values + first * s.width + 32 * group, s.width, s.width - 32 * group, rows,
                 values.get() + (block * groups + group) * kStep);
  }
  const Mixing mixing{queries, keys.get(), values.get(), steps, groups, s.keys, 1.0f};
  const Tiles tiles;
  for (size_t row = 0; row < s.rows; row += 32) {
    const size_t rows = std::min<size_t>(32, s.rows - row);
    pack_left(s.q + row * s.depth, s.depth, rows, s.depth, queries);
    const float* const mixed = mix(mixing, floats.get(), queries + steps * kStep);
    const float* const sums = mixed + 32 * 32 * groups;
    for (size_t r = 0; r < rows; ++r)
      for (size_t i = 0; i < s.width; i += 16)
        store(load(mixed + r * 32 * groups + i, 16) / sums[r],
              s.total + (row + r) * s.width + i, s.width - i);
  }
}
