// A custom operator for ONNX Runtime on CPUs: mdrt.WinogradConv(X, W, B) is the convolution
// Conv(X, W, B) with 3×3 kernels, stride 1 and padding 1, by Winograd's minimal filtering
// (winograd_tiles.h): a quarter of the multiplications.
//
//   X (n, channels_in, height, width) float32, W (channels_out, channels_in, 3, 3) float32,
//   B (channels_out,) float32, optional → (n, channels_out, height, width) float32
//
// W must be a constant of the graph: U = G W Gᵀ is computed at the first run and kept.
// Blocks of tiles run in ONNX Runtime's own thread pool, each with a scratch of its own.

#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "ort_abi.h"

namespace {

struct Plan {
  int height, width;
  size_t channels_in, channels_out, rows_padded;
  size_t tiles_x, tiles;
  const float* u;     // [36][rows_padded / ROWS][channels_in][ROWS]
  const float* bias;  // [channels_out]
};

struct Kernels {
  size_t rows;   // output channels of a product
  size_t block;  // tiles of a block
  void (*convolve_block)(const Plan&, const float* image, size_t block, float* scratch,
                         float* result);
};

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,fma")
namespace avx512 {
#define LANES 16
#define ROWS 8
#define VECTORS 3
#include "winograd_tiles.h"
#undef LANES
#undef ROWS
#undef VECTORS
}  // namespace avx512
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#define LANES 8
#define ROWS 4
#define VECTORS 3
#include "winograd_tiles.h"
#undef LANES
#undef ROWS
#undef VECTORS
}  // namespace avx2
#pragma GCC pop_options
#define HAS_AVX 1
#endif
namespace plain {
#define LANES 4
#define ROWS 4
#define VECTORS 3
#include "winograd_tiles.h"
#undef LANES
#undef ROWS
#undef VECTORS
}  // namespace plain

// The widest that this processor has; MDRT_SIMD=avx2 or plain takes a narrower one, for tests.
const Kernels& best_kernels() {
#ifdef HAS_AVX
  const char* asked = std::getenv("MDRT_SIMD");
  const std::string limit = asked == nullptr ? "avx512" : asked;
  if (limit == "avx512" && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    return avx512::kernels;
  if (limit != "plain" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return avx2::kernels;
#endif
  return plain::kernels;
}

struct Free {
  void operator()(float* memory) const { std::free(memory); }
};
using Floats = std::unique_ptr<float[], Free>;

Floats floats(size_t count) {
  const size_t bytes = (count * sizeof(float) + 63) / 64 * 64;
  float* memory = static_cast<float*>(std::aligned_alloc(64, bytes));
  if (memory == nullptr) throw std::bad_alloc();
  return Floats(memory);
}

class Convolution {
 public:
  explicit Convolution(const ort::Api* api) : api_(api), kernels_(best_kernels()) {}

  void compute(ort::KernelContext* context) {
    const Tensor x = input(context, 0), w = input(context, 1), b = input(context, 2);
    std::vector<float> zeros(b.data == nullptr ? size_t(w.shape[0]) : 0);
    std::call_once(transformed_, [&] { transform_weights(w); });
    Plan p;
    p.height = int(x.shape[2]);
    p.width = int(x.shape[3]);
    p.channels_in = size_t(x.shape[1]);
    p.channels_out = size_t(w.shape[0]);
    p.rows_padded = rows_padded(p.channels_out);
    p.tiles_x = size_t(p.width + 3) / 4;
    p.tiles = p.tiles_x * size_t((p.height + 3) / 4);
    p.u = u_.get();
    p.bias = b.data == nullptr ? zeros.data() : b.data;
    const int64_t shape[4] = {x.shape[0], w.shape[0], x.shape[2], x.shape[3]};
    ort::Value* value = nullptr;
    ort::KernelContext_GetOutput::call(api_, context, size_t{0}, shape, size_t{4}, &value);
    Job job{this, &p, x.data, data(value), (p.tiles + kernels_.block - 1) / kernels_.block};
    ort::KernelContext_ParallelFor::call(
        api_, static_cast<const ort::KernelContext*>(context), &Convolution::run_block,
        job.blocks * size_t(x.shape[0]), size_t{0}, static_cast<void*>(&job));
  }

 private:
  struct Tensor {
    const float* data;
    int64_t shape[4];
  };
  struct Job {
    Convolution* self;
    const Plan* plan;
    const float* x;
    float* y;
    size_t blocks;
  };

  static void run_block(void* data, size_t index) {
    const Job& job = *static_cast<const Job*>(data);
    const Plan& p = *job.plan;
    const Kernels& kernels = job.self->kernels_;
    const size_t picture = index / job.blocks, area = size_t(p.height) * p.width;
    thread_local Floats scratch;
    thread_local size_t held = 0;
    const size_t needed = 36 * kernels.block * (p.channels_in + kernels.rows);
    if (held < needed) {
      scratch.reset();
      scratch = floats(needed);
      held = needed;
    }
    kernels.convolve_block(p, job.x + picture * p.channels_in * area, index % job.blocks,
                           scratch.get(), job.y + picture * p.channels_out * area);
  }

  size_t rows_padded(size_t channels) const {
    return (channels + kernels_.rows - 1) / kernels_.rows * kernels_.rows;
  }

  // U = G g Gᵀ of every kernel g, laid out as the products read it; in double, rounded once.
  void transform_weights(const Tensor& w) {
    static const double G[6][3] = {{1. / 4, 0, 0},
                                   {-1. / 6, -1. / 6, -1. / 6},
                                   {-1. / 6, 1. / 6, -1. / 6},
                                   {1. / 24, 1. / 12, 1. / 6},
                                   {1. / 24, -1. / 12, 1. / 6},
                                   {0, 0, 1}};
    const size_t out = size_t(w.shape[0]), in = size_t(w.shape[1]), rows = kernels_.rows;
    const size_t padded = rows_padded(out);
    u_ = floats(36 * padded * in);
    std::memset(u_.get(), 0, 36 * padded * in * sizeof(float));
    for (size_t o = 0; o < out; ++o)
      for (size_t c = 0; c < in; ++c) {
        const float* g = w.data + (o * in + c) * 9;
        double half[6][3];
        for (int i = 0; i < 6; ++i)
          for (int j = 0; j < 3; ++j)
            half[i][j] = G[i][0] * g[j] + G[i][1] * g[3 + j] + G[i][2] * g[6 + j];
        for (int i = 0; i < 6; ++i)
          for (int j = 0; j < 6; ++j) {
            const double value =
                half[i][0] * G[j][0] + half[i][1] * G[j][1] + half[i][2] * G[j][2];
            const size_t k = size_t(6 * i + j);
            u_[k * padded * in + (o / rows * in + c) * rows + o % rows] = float(value);
          }
      }
  }

  float* data(ort::Value* value) const {
    void* memory = nullptr;
    ort::GetTensorMutableData::call(api_, value, &memory);
    return static_cast<float*>(memory);
  }

  Tensor input(const ort::KernelContext* context, size_t index) const {
    size_t count = 0;
    ort::KernelContext_GetInputCount::call(api_, context, &count);
    const ort::Value* value = nullptr;
    if (index < count) ort::KernelContext_GetInput::call(api_, context, index, &value);
    if (value == nullptr) return {nullptr, {0, 0, 0, 0}};
    ort::ShapeInfo* info = nullptr;
    ort::GetTensorTypeAndShape::call(api_, value, &info);
    size_t rank = 0;
    ort::GetDimensionsCount::call(api_, static_cast<const ort::ShapeInfo*>(info), &rank);
    Tensor tensor{data(const_cast<ort::Value*>(value)), {1, 1, 1, 1}};
    ort::GetDimensions::call(api_, static_cast<const ort::ShapeInfo*>(info), tensor.shape,
                             rank < 4 ? rank : size_t{4});
    ort::ReleaseTensorTypeAndShapeInfo::call(api_, info);
    return tensor;
  }

  const ort::Api* api_;
  const Kernels& kernels_;
  std::once_flag transformed_;
  Floats u_;
};

const ort::CustomOp winograd_conv = {
    8,
    [](const ort::CustomOp*, const ort::Api* api, const ort::KernelInfo*) -> void* {
      return new Convolution(api);
    },
    [](const ort::CustomOp*) { return "WinogradConv"; },
    [](const ort::CustomOp*) -> const char* { return nullptr; },  // the CPU
    [](const ort::CustomOp*, size_t) -> int { return ort::kFloat; },
    [](const ort::CustomOp*) { return size_t{3}; },
    [](const ort::CustomOp*, size_t) -> int { return ort::kFloat; },
    [](const ort::CustomOp*) { return size_t{1}; },
    [](void* kernel, ort::KernelContext* context) {
      static_cast<Convolution*>(kernel)->compute(context);
    },
    [](void* kernel) { delete static_cast<Convolution*>(kernel); },
    [](const ort::CustomOp*, size_t index) -> int {
      return index < 2 ? ort::kRequired : ort::kOptional;
    },
    [](const ort::CustomOp*, size_t) -> int { return ort::kRequired; },
};

}  // namespace

// What ONNX Runtime looks for in a custom operator library.
extern "C" __attribute__((visibility("default"))) ort::Status* RegisterCustomOps(
    ort::SessionOptions* options, const ort::ApiBase* base) {
  const ort::Api* api = base->GetApi(ort::kLeastApi);
  if (api == nullptr) return nullptr;  // an older ONNX Runtime; it has said so on stderr
  static ort::CustomOpDomain* domain = nullptr;
  static std::once_flag once;
  ort::Status* status = nullptr;
  std::call_once(once, [&] {
    status = ort::CreateCustomOpDomain::call(api, "mdrt", &domain);
    if (status == nullptr) status = ort::CustomOpDomain_Add::call(api, domain, &winograd_conv);
  });
  if (status != nullptr) return status;
  return ort::AddCustomOpDomain::call(api, options, domain);
}
