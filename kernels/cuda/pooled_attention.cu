// Class maps from cross-attention logits (Eq. 4), in one pass over them:
//
//     a_c(p) = sum of exp((U z)(p) - m_c) over layers, heads and the tokens of c,
//     then divided by its largest value over p,
//
// with z the logits of a layer, U its bilinear resize to the output grid and m_c the largest
// resized logit of the class. m_c is known only after the last layer, so every pixel carries the
// largest logit it has met and its sum relative to that (online softmax: Milakov and Gimelshein
// 2018, Algorithm 3). `pool_*` adds one layer; `relative_maps` brings the pixels of a class
// to m_c and divides. The mean of Eq. 4 and this sum differ by a factor that cancels.

#include "bilinear.cuh"
#include "half.cuh"

const int THREADS = 256;  // of a block, in both kernels

// One layer: logits (heads, tokens, h, w). The tokens of class c are class_tokens[class_start[c]]
// up to class_tokens[class_start[c + 1]], exclusive. largest and total: (classes, rows, columns).
template <class Logit>
__device__ void pool(
    const Logit* logits, int heads, int tokens, int h, int w, const int* class_tokens,
    const int* class_start, int rows, int columns, float* largest, float* total
) {
    const int pixel = blockIdx.x * blockDim.x + threadIdx.x;
    const int c = blockIdx.y;
    if (pixel >= rows * columns) return;
    const Tap y = tap(pixel / columns, static_cast<double>(h) / rows, h);
    const Tap x = tap(pixel % columns, static_cast<double>(w) / columns, w);
    const float bottom = static_cast<float>(y.far), top = 1.0f - bottom;
    const float right = static_cast<float>(x.far), left = 1.0f - right;

    const long long at = static_cast<long long>(c) * rows * columns + pixel;
    float most = largest[at], sum = total[at];
    for (int k = class_start[c]; k < class_start[c + 1]; ++k) {
        for (int head = 0; head < heads; ++head) {
            const long long map = static_cast<long long>(head) * tokens + class_tokens[k];
            const Logit* upper = logits + (map * h + y.low) * w;
            const Logit* lower = logits + (map * h + y.high) * w;
            const float value = top * (left * upper[x.low] + right * upper[x.high]) +
                                bottom * (left * lower[x.low] + right * lower[x.high]);
            if (value > most) {
                sum = sum * expf(most - value) + 1.0f;
                most = value;
            } else {
                sum += expf(value - most);
            }
        }
    }
    largest[at] = most;
    total[at] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) pool_float(
    const float* logits, int heads, int tokens, int h, int w, const int* class_tokens,
    const int* class_start, int rows, int columns, float* largest, float* total
) {
    pool(logits, heads, tokens, h, w, class_tokens, class_start, rows, columns, largest, total);
}

extern "C" __global__ void __launch_bounds__(THREADS) pool_half(
    const Half* logits, int heads, int tokens, int h, int w, const int* class_tokens,
    const int* class_start, int rows, int columns, float* largest, float* total
) {
    pool(logits, heads, tokens, h, w, class_tokens, class_start, rows, columns, largest, total);
}

// The largest value of a block's threads, for all of them.
__device__ float block_largest(float value) {
    __shared__ float values[THREADS];
    const int thread = threadIdx.x;
    values[thread] = value;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half) values[thread] = fmaxf(values[thread], values[thread + half]);
        __syncthreads();
    }
    const float result = values[0];
    __syncthreads();  // before the next call writes
    return result;
}

// One block a class: maps (classes, pixels), the sums of `pool_*`, become a_c in [0, 1].
extern "C" __global__ void __launch_bounds__(THREADS) relative_maps(
    const float* largest, float* maps, int pixels
) {
    const long long first = static_cast<long long>(blockIdx.x) * pixels;
    largest += first;
    maps += first;
    float most = largest[0];
    for (int p = threadIdx.x; p < pixels; p += THREADS) most = fmaxf(most, largest[p]);
    most = block_largest(most);
    float peak = 0.0f;
    for (int p = threadIdx.x; p < pixels; p += THREADS) {
        maps[p] *= expf(largest[p] - most);
        peak = fmaxf(peak, maps[p]);
    }
    peak = block_largest(peak);
    for (int p = threadIdx.x; p < pixels; p += THREADS) maps[p] /= peak;
}
