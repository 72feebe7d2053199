// IEEE binary16 as an input type, without cuda_fp16.h: NVRTC alone does not bring that header.

struct Half {
    unsigned short bits;

    // Exact: the exponent moves from bias 15 to bias 127.
    __device__ operator float() const {
        const unsigned magnitude = (bits & 0x7fffu) << 13;
        const unsigned sign = (bits & 0x8000u) << 16;
        if (magnitude >= 0x0f800000u) {  // infinity or NaN
            return __uint_as_float(sign | magnitude | 0x7f800000u);
        }
        if (magnitude < 0x00800000u) {  // zero or subnormal: an integer times 2^-24
            const float value = static_cast<float>(magnitude >> 13) * 5.9604644775390625e-8f;
            return sign ? -value : value;
        }
        return __uint_as_float(sign | (magnitude + 0x38000000u));
    }
};
