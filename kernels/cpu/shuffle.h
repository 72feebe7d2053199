// Lanes of two vectors by places known at compile time, for GCC and Clang; included once for each
// instruction set, since a function of another set would be lowered for that one.

// Place::at(i): the lane of (a | b) that lane i of the result takes, modulo their number.
template <typename Place, typename V, size_t... I>
static inline __attribute__((always_inline)) V taken(V a, V b, std::index_sequence<I...>) {
  constexpr int lanes = 2 * int(sizeof...(I));
#ifdef __clang__
  return __builtin_shufflevector(a, b, (Place::at(int(I)) % lanes)...);
#else
  typedef int Places __attribute__((vector_size(4 * sizeof...(I))));
  return __builtin_shuffle(a, b, Places{(Place::at(int(I)) % lanes)...});
#endif
}

template <typename Place, typename V>
static inline __attribute__((always_inline)) V take(V a, V b) {
  return taken<Place>(a, b, std::make_index_sequence<sizeof(V) / sizeof(float)>());
}
