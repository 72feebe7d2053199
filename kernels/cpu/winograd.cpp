// A custom operator for ONNX Runtime on CPUs: mdrt.WinogradConv(X, W, B) is the convolution
// Conv(X, W, B) with 3×3 kernels, stride 1 and padding 1, by Winograd's minimal filtering
// (winograd_tiles.h): a quarter of the multiplications.
//
//   X (n, channels_in, height, width) float32, W (channels_out, channels_in, 3, 3) float32,
//   B (channels_out,) float32, optional → (n, channels_out, height, width) float32
//
// Nothing is kept between runs: U = G W Gᵀ is made where it is used, in a few hundredths of the
// time, so that weights stay where they are, once.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "ort_abi.h"

namespace {

// One picture of a batch.
struct Plan {
  int height, width;
  size_t channels_in, channels_out;
  size_t tiles_x, tiles;
  const float *x, *w, *bias;
  float* y;
};

// What winograd_tiles.h compiles to for one instruction set; it says what each function does.
struct Kernels {
  size_t block, group, depth;    // tiles, output channels and input channels of a product
  size_t u_floats, m_floats;     // what U of a group and depth, and M of a group and block, take
  size_t (*v_floats)(const Plan&);  // what V of a block takes
  void (*transform_block)(const Plan&, size_t block, size_t from, size_t to, float* v);
  void (*transform_weights)(const Plan&, size_t group, size_t channel, float* u);
  void (*multiply)(const Plan&, size_t group, size_t from, size_t to, const float* v,
                   const float* u, float* scratch);
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

// Memory of a thread that grows to what is asked for and is kept.
class Scratch {
 public:
  float* floats_of(size_t count) {
    if (held_ < count) {
      memory_.reset();
      memory_ = floats(count);
      held_ = count;
    }
    return memory_.get();
  }

 private:
  Floats memory_;
  size_t held_ = 0;
};

class Convolution {
 public:
  explicit Convolution(const ort::Api* api) : api_(api), kernels_(best_kernels()) {}

  void compute(ort::KernelContext* context) const {
    const Tensor x = input(context, 0), w = input(context, 1), b = input(context, 2);
    const std::vector<float> zeros(b.data == nullptr ? size_t(w.shape[0]) : 0);
    const int64_t shape[4] = {x.shape[0], w.shape[0], x.shape[2], x.shape[3]};
    ort::Value* value = nullptr;
    ort::KernelContext_GetOutput::call(api_, context, size_t{0}, shape, size_t{4}, &value);
    Plan p;
    p.height = int(x.shape[2]);
    p.width = int(x.shape[3]);
    p.channels_in = size_t(x.shape[1]);
    p.channels_out = size_t(w.shape[0]);
    p.tiles_x = size_t(p.width + 3) / 4;
    p.tiles = p.tiles_x * size_t((p.height + 3) / 4);
    p.w = w.data;
    p.bias = b.data == nullptr ? zeros.data() : b.data;
    const size_t area = size_t(p.height) * p.width;
    for (int64_t picture = 0; picture < x.shape[0]; ++picture) {
      p.x = x.data + size_t(picture) * p.channels_in * area;
      p.y = data(value) + size_t(picture) * p.channels_out * area;
      if (pieces(p.tiles, kernels_.block) >= 4 * threads_)
        convolve_wide(context, p);
      else
        convolve_deep(context, p);
    }
  }

 private:
  struct Tensor {
    const float* data;
    int64_t shape[4];
  };

  static size_t pieces(size_t whole, size_t piece) { return (whole + piece - 1) / piece; }

  // Many tiles: U once, then every thread takes blocks through all steps, with V of its own.
  void convolve_wide(ort::KernelContext* context, const Plan& p) const {
    const Kernels& k = kernels_;
    const size_t groups = pieces(p.channels_out, k.group), depths = pieces(p.channels_in, k.depth);
    const size_t v_floats = k.v_floats(p);
    thread_local Scratch shared;
    float* u = shared.floats_of(groups * depths * k.u_floats);
    parallel(context, groups * depths, [&](size_t index) {
      k.transform_weights(p, index / depths, index % depths * k.depth, u + index * k.u_floats);
    });
    parallel(context, pieces(p.tiles, k.block), [&](size_t block) {
      thread_local Scratch own;
      float* v = own.floats_of(v_floats + k.m_floats);
      k.transform_block(p, block, 0, p.channels_in, v);
      for (size_t group = 0; group < groups; ++group)
        k.multiply(p, group, block, block + 1, v, u, v + v_floats);
    });
  }

  // Few tiles, many channels: V once, then every thread takes groups of output channels, with U
  // of its own, a few input channels at a time.
  void convolve_deep(ort::KernelContext* context, const Plan& p) const {
    const Kernels& k = kernels_;
    const size_t blocks = pieces(p.tiles, k.block), strips = pieces(p.channels_in, kStrip);
    const size_t v_floats = k.v_floats(p);
    thread_local Scratch shared;
    float* v = shared.floats_of(blocks * v_floats);
    parallel(context, blocks * strips, [&](size_t index) {
      const size_t block = index / strips, from = index % strips * kStrip;
      k.transform_block(p, block, from, std::min(from + kStrip, p.channels_in),
                        v + block * v_floats);
    });
    const size_t groups = pieces(p.channels_out, k.group);
    const size_t cut = pieces(blocks, std::min(pieces(2 * threads_, groups), blocks));
    parallel(context, groups * pieces(blocks, cut), [&](size_t index) {
      thread_local Scratch own;
      const size_t from = index / groups * cut, to = std::min(from + cut, blocks);
      float* memory = own.floats_of(cut * k.m_floats + k.u_floats);
      k.multiply(p, index % groups, from, to, v + from * v_floats, nullptr, memory);
    });
  }

  // task(0), …, task(count − 1) in the session's thread pool, each when a thread is free.
  template <typename Task>
  void parallel(ort::KernelContext* context, size_t count, const Task& task) const {
    ort::KernelContext_ParallelFor::call(
        api_, static_cast<const ort::KernelContext*>(context),
        +[](void* of_task, size_t index) { (*static_cast<const Task*>(of_task))(index); }, count,
        count, const_cast<void*>(static_cast<const void*>(&task)));
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

  static constexpr size_t kStrip = 16;  // input channels of a task

  const ort::Api* api_;
  const Kernels& kernels_;
  const size_t threads_ = std::max(1u, std::thread::hardware_concurrency());
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
      static_cast<const Convolution*>(kernel)->compute(context);
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
