// Labels from scores that follow the picture's edges (kernels/edges.py):
//
//     label(p) = argmax over c of q_c(p),  q_c = U a_c . I(p) + U b_c,  confidence(p) = q_label(p),
//
// with a and b the averaged fits on the small grid, U the bilinear resize and I the picture. A
// thread a pixel: its neighbours, weights and colours are found once, then the classes stream by.

#include "bilinear.cuh"

// fits packs (4, classes, h, w) of the classes from `first` on: the slopes of the three colours,
// then the offset; image is (rows, columns, 3). absent, of all classes, may be null. labels and
// confidence hold the winners among the classes before: the first class wins a tie.
template <class Label>
__device__ void assign(
    const float* fits, int first, int classes, int h, int w, int rows, int columns,
    const unsigned char* image, const bool* absent, Label* labels, float* confidence
) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = blockIdx.y * blockDim.y + threadIdx.y;
    if (row >= rows || column >= columns) return;

    const Tap y = tap(row, static_cast<double>(h) / rows, h);
    const Tap x = tap(column, static_cast<double>(w) / columns, w);
    const float right = static_cast<float>(x.far), left = 1.0f - right;
    const float bottom = static_cast<float>(y.far), top = 1.0f - bottom;
    const float weights[4] = {top * left, top * right, bottom * left, bottom * right};
    const int cells[4] = {
        y.low * w + x.low, y.low * w + x.high, y.high * w + x.low, y.high * w + x.high
    };
    const long long at = static_cast<long long>(row) * columns + column;
    const float colours[4] = {
        image[3 * at] / 255.0f, image[3 * at + 1] / 255.0f, image[3 * at + 2] / 255.0f, 1.0f
    };
    const long long plane = static_cast<long long>(h) * w;

    int winner = labels[at];
    float best = confidence[at];
    for (int c = 0; c < classes; ++c) {
        if (absent && absent[first + c]) continue;
        float score = 0.0f;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const float* map = fits + (static_cast<long long>(k) * classes + c) * plane;
            float value = 0.0f;
#pragma unroll
            for (int n = 0; n < 4; ++n) value += weights[n] * map[cells[n]];
            score += colours[k] * value;
        }
        if (score > best) {
            winner = first + c;
            best = score;
        }
    }
    labels[at] = static_cast<Label>(winner);
    confidence[at] = best;
}

extern "C" __global__ void __launch_bounds__(256) edge_labels_uint8(
    const float* fits, int first, int classes, int h, int w, int rows, int columns,
    const unsigned char* image, const bool* absent, unsigned char* labels, float* confidence
) {
    assign(fits, first, classes, h, w, rows, columns, image, absent, labels, confidence);
}

extern "C" __global__ void __launch_bounds__(256) edge_labels_uint16(
    const float* fits, int first, int classes, int h, int w, int rows, int columns,
    const unsigned char* image, const bool* absent, unsigned short* labels, float* confidence
) {
    assign(fits, first, classes, h, w, rows, columns, image, absent, labels, confidence);
}
