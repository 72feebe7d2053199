// Labels and confidences at full resolution (Eq. 6 after kernels/assign.py):
//
//     label(p) = argmax over c of s_c(p),  s_c = sum over levels l of U_l S_{c,l},
//     confidence(p) = s_label(p) / |f(p)|,
//
// with S the low-resolution score maps and U the bilinear resize. A thread a pixel: its neighbours
// and weights are found once, then the classes stream by; no score is ever stored.

#include "bilinear.cuh"

const int MAX_LEVELS = 4;  // the strides of a Stable Diffusion UNet: their weights fit in registers

// scores packs (classes, h, w) of every level; labels, norms and confidence are (rows, columns).
// Without norms no confidence is written. The first class wins a tie.
template <class Label>
__device__ void assign(
    const float* scores, const Level* levels, int count, int classes, int rows, int columns,
    const float* norms, Label* labels, float* confidence
) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = blockIdx.y * blockDim.y + threadIdx.y;
    if (row >= rows || column >= columns) return;

    const float* corner[MAX_LEVELS] = {};
    int beside[MAX_LEVELS] = {}, below[MAX_LEVELS] = {}, cells[MAX_LEVELS] = {};
    float right[MAX_LEVELS] = {}, bottom[MAX_LEVELS] = {};
#pragma unroll
    for (int l = 0; l < MAX_LEVELS; ++l) {
        if (l < count) {
            const Level level = levels[l];
            const Tap y = tap(row, level.row_step, level.h);
            const Tap x = tap(column, level.column_step, level.w);
            cells[l] = level.h * level.w;
            corner[l] = scores + level.offset + y.low * level.w + x.low;
            beside[l] = x.high - x.low;
            below[l] = (y.high - y.low) * level.w;
            right[l] = static_cast<float>(x.far);
            bottom[l] = static_cast<float>(y.far);
        }
    }

    int winner = 0;
    float best = 0.0f;
    for (int c = 0; c < classes; ++c) {
        float score = 0.0f;
#pragma unroll
        for (int l = 0; l < MAX_LEVELS; ++l) {
            if (l < count) {
                const float* upper = corner[l];
                const float* lower = upper + below[l];
                const float left = 1.0f - right[l];
                score += (1.0f - bottom[l]) * (left * upper[0] + right[l] * upper[beside[l]]) +
                         bottom[l] * (left * lower[0] + right[l] * lower[beside[l]]);
                corner[l] += cells[l];
            }
        }
        if (c == 0 || score > best) {
            winner = c;
            best = score;
        }
    }
    const long long at = static_cast<long long>(row) * columns + column;
    labels[at] = static_cast<Label>(winner);
    if (norms) confidence[at] = best / norms[at];
}

extern "C" __global__ void __launch_bounds__(256) labels_uint8(
    const float* scores, const Level* levels, int count, int classes, int rows, int columns,
    const float* norms, unsigned char* labels, float* confidence
) {
    assign(scores, levels, count, classes, rows, columns, norms, labels, confidence);
}

extern "C" __global__ void __launch_bounds__(256) labels_uint16(
    const float* scores, const Level* levels, int count, int classes, int rows, int columns,
    const float* norms, unsigned short* labels, float* confidence
) {
    assign(scores, levels, count, classes, rows, columns, norms, labels, confidence);
}
