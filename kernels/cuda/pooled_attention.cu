// Class maps from cross-attention logits, in one pass over them:
//
//     a_c = sum over layers of U e_c,  e_c(p) = sum of exp(z(p) - m_c) over heads and the tokens
//     of c, then divided by its largest value,
//
// with z the logits of a layer on its own grid, U the bilinear resize from there to the common
// grid and m_c the largest logit of the class in any layer. (Eq. 4 is z = QK^T / sqrt(d) itself;
// exp before the resize is the official code's.) m_c is known only after the last layer, so every
// cell gets the largest logit it holds and its sum relative to that (online softmax: Milakov and
// Gimelshein 2018, Algorithm 3). `pool_*` does one layer; `relative_maps` brings a class's cells
// to m_c, resizes, adds and divides. The official mean and this sum differ by a factor that
// cancels.

#include "bilinear.cuh"
#include "half.cuh"

const int THREADS = 256;  // of a block, in both kernels
const float LOWEST = -3.402823466e38f;

// One layer: logits (heads, tokens, cells). The tokens of class c are class_tokens[class_start[c]]
// up to class_tokens[class_start[c + 1]], exclusive. largest and sums: (classes, cells).
template <class Logit>
__device__ void pool(
    const Logit* logits, int heads, int tokens, int cells, const int* class_tokens,
    const int* class_start, float* largest, float* sums
) {
    const int cell = blockIdx.x * blockDim.x + threadIdx.x;
    const int c = blockIdx.y;
    if (cell >= cells) return;
    float most = LOWEST, sum = 0.0f;
    for (int k = class_start[c]; k < class_start[c + 1]; ++k) {
        for (int head = 0; head < heads; ++head) {
            const long long map = static_cast<long long>(head) * tokens + class_tokens[k];
            const float value = logits[map * cells + cell];
            if (value > most) {
                sum = sum * expf(most - value) + 1.0f;
                most = value;
            } else {
                sum += expf(value - most);
            }
        }
    }
    const long long at = static_cast<long long>(c) * cells + cell;
    largest[at] = most;
    sums[at] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) pool_float(
    const float* logits, int heads, int tokens, int cells, const int* class_tokens,
    const int* class_start, float* largest, float* sums
) {
    pool(logits, heads, tokens, cells, class_tokens, class_start, largest, sums);
}

extern "C" __global__ void __launch_bounds__(THREADS) pool_half(
    const Half* logits, int heads, int tokens, int cells, const int* class_tokens,
    const int* class_start, float* largest, float* sums
) {
    pool(logits, heads, tokens, cells, class_tokens, class_start, largest, sums);
}

// The largest value of a block's threads, for all of them. Two calls need a barrier in between.
__device__ float block_largest(float value) {
    __shared__ float values[THREADS];
    const int thread = threadIdx.x;
    values[thread] = value;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half) values[thread] = fmaxf(values[thread], values[thread + half]);
        __syncthreads();
    }
    return values[0];
}

// One block a class: what `pool_*` left of every layer becomes a_c in [0, 1], maps (classes, rows,
// columns). largest and sums pack (classes, h, w) of every level, and sums are overwritten.
extern "C" __global__ void __launch_bounds__(THREADS) relative_maps(
    const float* largest, float* sums, const Level* levels, int count, int rows, int columns,
    float* maps
) {
    const int c = blockIdx.x, pixels = rows * columns;
    float most = LOWEST;
    for (int l = 0; l < count; ++l) {
        const int cells = levels[l].h * levels[l].w;
        const float* own = largest + levels[l].offset + static_cast<long long>(c) * cells;
        for (int p = threadIdx.x; p < cells; p += THREADS) most = fmaxf(most, own[p]);
    }
    most = block_largest(most);
    for (int l = 0; l < count; ++l) {
        const int cells = levels[l].h * levels[l].w;
        const long long first = levels[l].offset + static_cast<long long>(c) * cells;
        for (int p = threadIdx.x; p < cells; p += THREADS) {
            sums[first + p] *= expf(largest[first + p] - most);
        }
    }
    __syncthreads();  // the resize reads what other threads wrote
    maps += static_cast<long long>(c) * pixels;
    float peak = 0.0f;
    for (int p = threadIdx.x; p < pixels; p += THREADS) {
        float total = 0.0f;
        for (int l = 0; l < count; ++l) {
            const Level level = levels[l];
            const Tap y = tap(p / columns, level.row_step, level.h);
            const Tap x = tap(p % columns, level.column_step, level.w);
            const float bottom = static_cast<float>(y.far), top = 1.0f - bottom;
            const float right = static_cast<float>(x.far), left = 1.0f - right;
            const float* own =
                sums + level.offset + static_cast<long long>(c) * level.h * level.w;
            const float* upper = own + y.low * level.w;
            const float* lower = own + y.high * level.w;
            total += top * (left * upper[x.low] + right * upper[x.high]) +
                     bottom * (left * lower[x.low] + right * lower[x.high]);
        }
        maps[p] = total;
        peak = fmaxf(peak, total);
    }
    peak = block_largest(peak);
    if (peak == 0.0f) return;  // a grid so coarse that it meets none of the map
    for (int p = threadIdx.x; p < pixels; p += THREADS) maps[p] /= peak;
}
