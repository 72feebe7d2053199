// The norm of f at every output pixel, without building f (kernels/norms.py):
//
//     |f|^2 = sum over levels of sum over i, j of w_i w_j <f_i, f_j>,
//
// over the four low-resolution neighbours i, j of the pixel, with w their bilinear weights.
// `neighbour_products` forms the ten inner products as four maps: a vector with itself, with the
// one on its right, with the one below, and both diagonals of the cell, which share their weights.
// float64 throughout: where neighbours nearly cancel, a square loses twice the digits.

#include "bilinear.cuh"

const int PIXELS = 8;  // of a block: as many float32 as the memory moves at once
const int LANES = 32;  // of a block: channels added side by side

// features (channels, h, w); products (4, h, w): own, right, down, diagonals; 0 beyond the edge.
extern "C" __global__ void __launch_bounds__(PIXELS * LANES) neighbour_products(
    const float* features, int channels, int h, int w, double* products
) {
    __shared__ double sums[LANES][PIXELS];
    const int x = threadIdx.x, lane = threadIdx.y;
    const int pixel = blockIdx.x * PIXELS + x;
    const bool inside = pixel < h * w;
    double parts[4] = {0.0, 0.0, 0.0, 0.0};
    if (inside) {
        const bool right = pixel % w + 1 < w, down = pixel + w < h * w;
        for (int channel = lane; channel < channels; channel += LANES) {
            const float* f = features + static_cast<long long>(channel) * h * w + pixel;
            const double here = f[0];
            const double beside = right ? f[1] : 0.0f;
            const double below = down ? f[w] : 0.0f;
            const double across = right && down ? f[w + 1] : 0.0f;
            parts[0] += here * here;
            parts[1] += here * beside;
            parts[2] += here * below;
            parts[3] += here * across + beside * below;
        }
    }
#pragma unroll
    for (int map = 0; map < 4; ++map) {
        sums[lane][x] = parts[map];
        __syncthreads();
        for (int half = LANES / 2; half > 0; half /= 2) {
            if (lane < half) sums[lane][x] += sums[lane + half][x];
            __syncthreads();
        }
        if (inside && lane == 0) products[static_cast<long long>(map) * h * w + pixel] = sums[0][x];
    }
}

// products packs (4, h, w) of every level; norms (rows, columns), at least `floor`.
extern "C" __global__ void __launch_bounds__(256) pixel_norms(
    const double* products, const Level* levels, int count, int rows, int columns, double floor,
    float* norms
) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = blockIdx.y * blockDim.y + threadIdx.y;
    if (row >= rows || column >= columns) return;
    double squared = 0.0;
    for (int l = 0; l < count; ++l) {
        const Level level = levels[l];
        const Tap y = tap(row, level.row_step, level.h);
        const Tap x = tap(column, level.column_step, level.w);
        const long long cells = static_cast<long long>(level.h) * level.w;
        const double* own = products + level.offset;
        const double* right = own + cells;
        const double* down = right + cells;
        const double* diagonals = down + cells;
        const int upper = y.low * level.w, lower = y.high * level.w;
        const double left_left = (1.0 - x.far) * (1.0 - x.far), right_right = x.far * x.far;
        const double left_right = (1.0 - x.far) * x.far;
        const double top = left_left * own[upper + x.low] + right_right * own[upper + x.high] +
                           2.0 * left_right * right[upper + x.low];
        const double bottom = left_left * own[lower + x.low] + right_right * own[lower + x.high] +
                              2.0 * left_right * right[lower + x.low];
        const double between = left_left * down[upper + x.low] + right_right * down[upper + x.high] +
                               left_right * diagonals[upper + x.low];
        squared += (1.0 - y.far) * (1.0 - y.far) * top + y.far * y.far * bottom +
                   2.0 * (1.0 - y.far) * y.far * between;
    }
    norms[static_cast<long long>(row) * columns + column] =
        static_cast<float>(sqrt(fmax(squared, floor * floor)));
}
