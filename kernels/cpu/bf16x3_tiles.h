// Matrix products of float32 numbers by bfloat16 products; included once for each instruction set,
// with AMX defined where the processor's tiles do them, else not.
//
// x = hi + lo, hi = bf16(x), lo = bf16(x − hi) holds 16 of the 24 bits of x, and
// a·b ≈ a_hi·b_hi + a_lo·b_hi + a_hi·b_lo, each product exact and summed in float32: "bf16x3", as
// Henry, Tang & Heinecke, Leveraging the bfloat16 Artificial Intelligence Datatype For
// Higher-Precision Computations (2019). A tile processor does the three in a quarter of the time
// that one float32 product takes its vector unit.
//
// A product takes 32 rows of A and 32 columns of B, a step of 32 along what is summed at a time. A
// step of A is four tiles (hi of rows 0 to 15, hi of rows 16 to 31, lo of each), a tile 16 rows of
// 32 bf16. A tile of B is 16 rows of 16 pairs: (b[2k][n], b[2k + 1][n]) in one 32-bit word.

#include "shuffle.h"

typedef float Vector __attribute__((vector_size(64), aligned(64), may_alias));
typedef float Unaligned __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(64), aligned(64), may_alias));
typedef uint32_t UnalignedWords __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(64), aligned(64), may_alias));
typedef uint16_t Halves __attribute__((vector_size(32), aligned(32), may_alias));

static inline Words bits(Vector x) { return reinterpret_cast<Words>(x); }
static inline Vector number(Words x) { return reinterpret_cast<Vector>(x); }

// bf16(x) in the upper half of a word, to the nearest, ties to even; the lower half is not zero.
static inline Words rounded(Vector x) {
  const Words u = bits(x);
  return u + 0x7fff + (u >> 16 & 1);
}

// hi and lo of x in the upper halves of words; the lower halves are not zero.
static inline void split(Vector x, Words* hi, Words* lo) {
  *hi = rounded(x);
  *lo = rounded(x - number(*hi & 0xffff0000u));
}

#ifdef AMX

// bf16 of the 32 numbers of two vectors, in their order.
static inline Words halved(Vector low, Vector high) {
  return reinterpret_cast<Words>(
      _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(high), reinterpret_cast<__m512>(low)));
}

// Words of pairs (first in the lower half) of two vectors' hi and of their lo.
static inline void split_pairs(Vector first, Vector second, Words* hi, Words* lo) {
  constexpr auto in_pairs = [] {
    std::array<uint16_t, 32> places{};
    for (size_t i = 0; i < 32; ++i) places[i] = uint16_t(i / 2 + i % 2 * 16);
    return places;
  }();
  const __m512i places = _mm512_loadu_si512(in_pairs.data());
  const auto paired = [&](Vector a, Vector b) {
    return reinterpret_cast<Words>(
        _mm512_permutexvar_epi16(places, reinterpret_cast<__m512i>(halved(a, b))));
  };
  *hi = paired(first, second);
  *lo = paired(first - number(*hi << 16), second - number(*hi & 0xffff0000u));
}

// One row of a step of A, 32 numbers: 16 words of pairs.
static inline void store_left(Vector low, Vector high, uint32_t* hi, uint32_t* lo) {
  const Words own = halved(low, high);
  const auto* const halves = reinterpret_cast<const Halves*>(&own);
  *reinterpret_cast<Words*>(hi) = own;
  *reinterpret_cast<Words*>(lo) =
      halved(low - number(__builtin_convertvector(halves[0], Words) << 16),
             high - number(__builtin_convertvector(halves[1], Words) << 16));
}

#else

// Words of pairs (first in the lower half) of two vectors' hi and of their lo.
static inline void split_pairs(Vector first, Vector second, Words* hi, Words* lo) {
  Words first_hi, first_lo, second_hi, second_lo;
  split(first, &first_hi, &first_lo);
  split(second, &second_hi, &second_lo);
  *hi = first_hi >> 16 | (second_hi & 0xffff0000u);
  *lo = first_lo >> 16 | (second_lo & 0xffff0000u);
}

// One row of a step of A, 32 numbers: 16 words of pairs.
static inline void store_left(Vector low, Vector high, uint32_t* hi, uint32_t* lo) {
  Words parts[2][2];
  split(low, &parts[0][0], &parts[0][1]);
  split(high, &parts[1][0], &parts[1][1]);
  for (int i = 0; i < 2; ++i) {
    Halves* const to_hi = reinterpret_cast<Halves*>(hi) + i;
    Halves* const to_lo = reinterpret_cast<Halves*>(lo) + i;
    *to_hi = __builtin_convertvector(parts[i][0] >> 16, Halves);
    *to_lo = __builtin_convertvector(parts[i][1] >> 16, Halves);
  }
}

#endif

// exp(x) for |x| < 87, as of the nearest of them beyond; within 2e-7 of it. Cephes' expf.
static inline Vector exponential(Vector x) {
  const Vector least = Vector{} - 87.0f, most = Vector{} + 88.0f;
  x = x < least ? least : x;
  x = x > most ? most : x;
  const Vector scaled = x * 1.44269504088896341f + 12582912.0f;  // 1.5 · 2²³: to the nearest
  const Vector n = scaled - 12582912.0f;
  x = x - n * 0.693359375f + n * 2.12194440e-4f;
  Vector p = x * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * x + 8.3334519073e-3f;
  p = p * x + 4.1665795894e-2f;
  p = p * x + 1.6666665459e-1f;
  p = p * x + 5.0000001201e-1f;
  p = p * x * x + x + 1.0f;
  return p * number((bits(scaled) + 127) << 23);
}

// 2^x for x up to 0, within 2e-7 of it; 0 for −∞.
static inline Vector power_of_two(Vector x) {
#ifdef WIDE
  const Vector f = reinterpret_cast<Vector>(_mm512_reduce_ps(reinterpret_cast<__m512>(x), 0x09));
  Vector p = f * 1.877575940e-3f + 8.989341870e-3f;  // f = x − ⌊x⌋
  p = p * f + 5.582631656e-2f;
  p = p * f + 2.401536175e-1f;
  p = p * f + 6.931530731e-1f;
  p = p * f + 9.999999251e-1f;
  const __m512 power = reinterpret_cast<__m512>(p);  // masked: GCC 12 warns of its own plain one
  return reinterpret_cast<Vector>(
      _mm512_mask_scalef_ps(power, 0xffff, power, reinterpret_cast<__m512>(x)));
#else
  const Vector p = exponential(x * 0.693147180559945f);
  return x == -INFINITY ? Vector{} : p;
#endif
}

template <int Places>
struct Rotated {
  static constexpr int at(int lane) { return lane + Places; }
};

static inline float largest_of(Vector v) {
  const auto larger = [](Vector a, Vector b) { return a > b ? a : b; };
  v = larger(v, take<Rotated<8>>(v, v));
  v = larger(v, take<Rotated<4>>(v, v));
  v = larger(v, take<Rotated<2>>(v, v));
  return std::max(v[0], v[1]);
}

// The largest of a row of `count` numbers, a multiple of 32, on a cache line's border.
static inline float largest_of(const float* row, size_t count) {
  const auto* const v = reinterpret_cast<const Vector*>(row);
  Vector most[2] = {v[0], v[1]};
  for (size_t i = 2; i < count / 16; i += 2)
    for (size_t half = 0; half < 2; ++half)
      most[half] = v[i + half] > most[half] ? v[i + half] : most[half];
  return largest_of(most[0] > most[1] ? most[0] : most[1]);
}

static inline float sum_of(Vector v) {
  v += take<Rotated<8>>(v, v);
  v += take<Rotated<4>>(v, v);
  v += take<Rotated<2>>(v, v);
  return v[0] + v[1];
}

// x · σ(x).
static inline Vector silu(Vector x) { return x / (1.0f + exponential(-x)); }

// x · Φ(x), Φ the normal distribution's, within 1e-7 · |x|: Abramowitz & Stegun, 7.1.26.
static inline Vector gelu(Vector x) {
  const Vector z = x * 0.70710678118654752f;
  const Vector a = number(bits(z) & 0x7fffffffu);
  const Vector t = 1.0f / (1.0f + 0.3275911f * a);
  Vector p = t * 1.061405429f - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Vector tail = p * t * exponential(-a * a) * 0.5f;  // (1 − erf |z|) / 2
  return x * (z < 0.0f ? tail : 1.0f - tail);
}

// Where the tiles of B lie that go with the steps of A: of step s, hi at `hi + offsets[s]` words, lo
// at `lo + offsets[s]`; rows `row` words apart; the second 16 columns `second` words further.
struct Right {
  const uint32_t *hi, *lo;
  const ptrdiff_t* offsets;
  size_t row, second;
};

constexpr size_t kTile = 16 * 16;     // words, or float32 numbers, of a tile
constexpr size_t kStep = 4 * kTile;   // words of a step of A

#ifdef AMX

struct TileConfiguration {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t columns[16] = {};
  uint8_t rows[16] = {};
};

// The tile unit is a thread's own, and off outside of a task.
class Tiles {
 public:
  Tiles() {
    alignas(64) TileConfiguration all;
    for (int i = 0; i < 8; ++i) all.columns[i] = 64, all.rows[i] = 16;
    _tile_loadconfig(&all);
  }
  ~Tiles() { _tile_release(); }
};

// c[32][32], rows `width` apart, (+)= A B.
static inline void product(const uint32_t* a, const Right& b, size_t steps, bool more, float* c,
                           size_t width) {
  const size_t line = 64, row = b.row * sizeof(uint32_t), c_row = width * sizeof(float);
  if (more) {
    _tile_loadd(0, c, c_row);
    _tile_loadd(1, c + 16, c_row);
    _tile_loadd(2, c + 16 * width, c_row);
    _tile_loadd(3, c + 16 * width + 16, c_row);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
#define MULTIPLY           \
  _tile_dpbf16ps(0, 4, 6); \
  _tile_dpbf16ps(1, 4, 7); \
  _tile_dpbf16ps(2, 5, 6); \
  _tile_dpbf16ps(3, 5, 7)
  for (size_t s = 0; s < steps; ++s, a += kStep) {
    const uint32_t *hi = b.hi + b.offsets[s], *lo = b.lo + b.offsets[s];
    _tile_loadd(6, hi, row);
    _tile_loadd(7, hi + b.second, row);
    _tile_loadd(4, a + 2 * kTile, line);
    _tile_loadd(5, a + 3 * kTile, line);
    MULTIPLY;
    _tile_loadd(4, a, line);
    _tile_loadd(5, a + kTile, line);
    MULTIPLY;
    _tile_loadd(6, lo, row);
    _tile_loadd(7, lo + b.second, row);
    MULTIPLY;
  }
#undef MULTIPLY
  _tile_stored(0, c, c_row);
  _tile_stored(1, c + 16, c_row);
  _tile_stored(2, c + 16 * width, c_row);
  _tile_stored(3, c + 16 * width + 16, c_row);
}

#else

class Tiles {
 public:
  Tiles() {}  // so that a variable of it is no unused one
};

static inline void product(const uint32_t* a, const Right& b, size_t steps, bool more, float* c,
                           size_t width) {
  for (size_t half = 0; half < 4; ++half) {
    float* const corner = c + half / 2 * 16 * width + half % 2 * 16;
    Vector sum[16];
    for (size_t r = 0; r < 16; ++r)
      sum[r] = more ? Vector(*reinterpret_cast<Unaligned*>(corner + r * width)) : Vector{};
    for (size_t s = 0; s < steps; ++s) {
      const uint32_t* const tiles = a + s * kStep + half / 2 * kTile;
      const ptrdiff_t place = b.offsets[s] + ptrdiff_t(half % 2 * b.second);
      for (int which = 0; which < 3; ++which) {  // lo · hi, hi · hi, hi · lo
        const uint32_t* const left = tiles + (which == 0 ? 2 * kTile : 0);
        const uint32_t* const right = (which == 2 ? b.lo : b.hi) + place;
        for (size_t k = 0; k < 16; ++k) {
          const Words pair = *reinterpret_cast<const UnalignedWords*>(right + k * b.row);
          const Vector even = number(pair << 16), odd = number(pair & 0xffff0000u);
          for (size_t r = 0; r < 16; ++r) {
            const Words of_a = Words{} + left[r * 16 + k];
            sum[r] += number(of_a << 16) * even + number(of_a & 0xffff0000u) * odd;
          }
        }
      }
    }
    for (size_t r = 0; r < 16; ++r) *reinterpret_cast<Unaligned*>(corner + r * width) = sum[r];
  }
}

#endif

// Up to 16 numbers; zeros behind the last.
static inline Vector load(const float* from, size_t count) {
  if (count >= 16) return *reinterpret_cast<const Unaligned*>(from);
  alignas(64) float padded[16] = {};
  std::memcpy(padded, from, count * sizeof(float));
  return *reinterpret_cast<const Vector*>(padded);
}

// float16 to float32, exactly; of finite numbers.
static inline Vector load(const uint16_t* from, size_t count) {
  alignas(32) uint16_t padded[16] = {};
  std::memcpy(padded, from, std::min<size_t>(count, 16) * sizeof(uint16_t));
  const Words h = __builtin_convertvector(*reinterpret_cast<const Halves*>(padded), Words);
  const Vector size = number((h & 0x7fff) << 13) * 0x1p112f;  // the exponents' biases differ by it
  return number(bits(size) | (h & 0x8000) << 16);
}

static inline void store(Vector x, float* to, size_t count) {
  if (count >= 16) {
    *reinterpret_cast<Unaligned*>(to) = x;
    return;
  }
  alignas(64) float all[16];
  *reinterpret_cast<Vector*>(all) = x;
  std::memcpy(to, all, count * sizeof(float));
}
