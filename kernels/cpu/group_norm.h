// Group normalisation (Wu & He) as a scale and a shift a channel, for whoever reads the channel
// next; included once for each instruction set, behind bf16x3_tiles.h.

// Mean and variance of `count` numbers: of 4096 at a time in two passes, joined in double.
static void moments(const float* x, size_t count, double* mean, double* variance) {
  double total = 0.0, squares = 0.0;  // the mean so far, and the sum of squares around it
  for (size_t from = 0; from < count; from += 4096) {
    const size_t size = std::min<size_t>(4096, count - from);
    Vector sum = {}, square = {};
    for (size_t i = 0; i < size; i += 16) sum += load(x + from + i, size - i);
    double own = 0.0, around = 0.0;
    for (size_t lane = 0; lane < 16; ++lane) own += sum[lane];
    own /= double(size);
    const float centre = float(own);
    for (size_t i = 0; i + 16 <= size; i += 16) {
      const Vector d = load(x + from + i, 16) - centre;
      square += d * d;
    }
    for (size_t lane = 0; lane < 16; ++lane) around += square[lane];
    for (size_t i = size / 16 * 16; i < size; ++i)
      around += double(x[from + i] - centre) * (x[from + i] - centre);
    const double apart = own - total, before = double(from), after = double(from + size);
    squares += around + apart * apart * before * double(size) / after;
    total += apart * double(size) / after;
  }
  *mean = total;
  *variance = squares / double(count);
}

// Of one group: y = x · scale + shift.
static void normalise(const GroupNorm& n, size_t group, float* scale, float* shift) {
  const size_t channels = n.channels / n.groups, first = group * channels;
  double mean, variance;
  moments(n.x + first * n.area, channels * n.area, &mean, &variance);
  const double factor = 1.0 / std::sqrt(variance + n.epsilon);
  for (size_t c = first; c < first + channels; ++c) {
    scale[c] = float(n.gamma[c] * factor);
    shift[c] = float(n.beta[c] - mean * n.gamma[c] * factor);
  }
}

// A channel, scaled, shifted and activated.
static void activate(const float* x, size_t area, float scale, float shift, bool with_silu,
                     float* y) {
  for (size_t i = 0; i < area; i += 16) {
    Vector v = load(x + i, area - i) * scale + shift;
    if (with_silu) v = silu(v);
    store(v, y + i, area - i);
  }
}
