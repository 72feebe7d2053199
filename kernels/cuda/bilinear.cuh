// The bilinear resize of kernels/resize.py, one output centre at a time.

// Where a level lies in a buffer that packs all of them, and how it is stepped through.
struct Level {
    long long offset;    // of its first value
    double row_step;     // low-resolution rows per output row: extent * h / rows
    double column_step;  // the same of columns
    int h, w;
};

// The two neighbours of an output centre along one axis; `low` weighs 1 - far, `high` weighs far.
struct Tap {
    int low, high;
    double far;
};

// x = (i + 1/2) step - 1/2, clamped to [0, n - 1]. In float64, like the matrices of the oracle
// before they are rounded: two operations a thread, where float32 would lose weights' last digits.
__device__ inline Tap tap(int i, double step, int n) {
    const double x = fmin(fmax((i + 0.5) * step - 0.5, 0.0), n - 1.0);
    Tap found;
    found.low = static_cast<int>(x);
    found.high = found.low + 1 < n ? found.low + 1 : found.low;
    found.far = x - found.low;
    return found;
}
