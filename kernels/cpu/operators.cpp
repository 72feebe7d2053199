// Custom operators for ONNX Runtime on CPUs, domain mdrt; all tensors are float32, W
// float32 or float16.
//
//   Conv(X, W, B?, gamma?, beta?, added?)
//     conv(X', W) + B + added by bfloat16 products, kernels 1×1 or 3×3: X (n, channels_in, height,
//     width), W (channels_out, channels_in, kernel, kernel), B (channels_out,). X' is X, or with
//     gamma and beta (channels_in,) SiLU (silu 1) or not (silu 0) of its group normalisation. added
//     is as the output or (n, channels_out, 1, 1). Attributes: stride, pad_top, pad_left,
//     pad_bottom, pad_right, groups, epsilon, silu.
//   WinogradConv(X, W, B?, gamma?, beta?, added?)
//     The same with 3×3 kernels, stride 1 and padding 1, by minimal filtering in float32.
//     Attributes: groups, epsilon, silu.
//   MatMul(X, W, B?, added?)
//     X (…, length) W (length, width) + B + added by bfloat16 products; gated 1: W and B twice as
//     wide, a · gelu(b) + added of what they give, (a | b). Attribute: gated.
//   Attention(Q, K, V)
//     softmax(Q Kᵀ · scale) V of every head by bfloat16 products: Q (n, queries, heads · depth),
//     K and V (n, keys, heads · depth). Attributes: heads, scale.
//   Gate(X, B?)
//     a · gelu(b) of X + B (…, 2 · width), (a | b), in float32.
//
// bf16x3_tiles.h says how near bfloat16 products come. Weights stay where they are, once: what is
// made of them is made where it is used and kept no longer.

#include <mutex>

#include "arrays.h"
#include "kernels.h"
#include "ort.h"

namespace {

using ort::Attributes;
using ort::Context;
using ort::Tensor;

void require(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(std::string("expected ") + what);
}

// What every operator computes with, chosen when it is made.
class Computing {
 protected:
  const Kernels& kernels_ = best_kernels();
  std::shared_ptr<Scratch> scratch_ = Scratch::shared();
};

// What both convolutions share: shapes, and the normalisation as a scale and a shift a channel.
class Convolving : protected Computing {
 public:
  static constexpr size_t kInputs = 6, kNeeded = 2, kWeights = 1, kAdded = 5;

  explicit Convolving(const Attributes& of)
      : groups_(of.count("groups")), epsilon_(of.number("epsilon")), silu_(of.count("silu") != 0) {}

 protected:
  struct Pads {
    size_t top, left, bottom, right;
  };

  // one(Convolution) of every picture.
  template <typename One>
  void each(const Context& context, size_t stride, const Pads& pads, const One& one) const {
    const Tensor x = context.input(0), w = context.input(1), b = context.input(2);
    const Tensor gamma = context.input(3), beta = context.input(4), added = context.input(5);
    require(x.shape.size() == 4 && w.shape.size() == 4 && w.shape[1] == x.shape[1] &&
                w.shape[3] == w.shape[2],
            "X (n, c, h, w) and W (channels_out, c, kernel, kernel)");
    Convolution c{};
    c.kernel = w.shape[2];
    c.stride = stride;
    c.channels_in = x.shape[1];
    c.channels_out = w.shape[0];
    c.height = x.shape[2];
    c.width = x.shape[3];
    const size_t high = c.height + pads.top + pads.bottom, wide = c.width + pads.left + pads.right;
    require(high >= c.kernel && wide >= c.kernel, "a picture that holds the kernel");
    c.out_height = (high - c.kernel) / stride + 1;
    c.out_width = (wide - c.kernel) / stride + 1;
    c.pad_top = pads.top;
    c.pad_left = pads.left;
    require(b.data == nullptr || b.size() == c.channels_out, "B (channels_out,)");
    const std::vector<size_t> shape{x.shape[0], c.channels_out, c.out_height, c.out_width};
    const bool by_channel = added.shape == std::vector<size_t>{x.shape[0], c.channels_out, 1, 1};
    require(added.data == nullptr || added.shape == shape || by_channel,
            "added as the output, or a number a picture and channel");
    const bool normalised = gamma.data != nullptr;
    require(!normalised || (beta.data != nullptr && gamma.size() == c.channels_in &&
                            beta.size() == c.channels_in && groups_ > 0 &&
                            c.channels_in % groups_ == 0),
            "gamma and beta (channels_in,), channels in whole groups");
    float* const y = context.output(shape);
    c.w = {w.data, w.half};
    c.bias = b.data;
    c.silu = silu_;
    c.added_whole = added.data != nullptr && !by_channel;
    std::vector<float> factors(normalised ? 2 * c.channels_in : 0);
    float *const scale = factors.data(), *const shift = scale + factors.size() / 2;
    if (normalised) c.scale = scale, c.shift = shift;
    const size_t area = c.height * c.width, out_area = c.out_height * c.out_width;
    for (size_t picture = 0; picture < x.shape[0]; ++picture) {
      c.x = x.data + picture * c.channels_in * area;
      c.y = y + picture * c.channels_out * out_area;
      if (added.data != nullptr)
        c.added = added.data + picture * c.channels_out * (by_channel ? 1 : out_area);
      if (normalised) {
        const GroupNorm norm{c.x, gamma.data, beta.data, c.channels_in, groups_, area, epsilon_};
        context.parallel(
            groups_, [&](size_t group) { kernels_.normalise(norm, group, scale, shift); });
      }
      one(c, Runner(context, *scratch_));
    }
  }

 private:
  size_t groups_;
  float epsilon_;
  bool silu_;
};

class WinogradConv : public Convolving {
 public:
  static constexpr const char* kName = "WinogradConv";

  using Convolving::Convolving;

  void compute(const Context& context) const {
    each(context, 1, {1, 1, 1, 1}, [&](const Convolution& c, const Runner& runner) {
      require(c.kernel == 3, "a 3×3 kernel");
      const size_t area = c.height * c.width;
      const auto activated = runner.floats(c.scale == nullptr ? 1 : c.channels_in * area);
      if (c.scale != nullptr)
        runner.parallel(c.channels_in, [&](size_t channel) {
          kernels_.activate(c.x + channel * area, area, c.scale[channel], c.shift[channel], c.silu,
                            activated.get() + channel * area);
        });
      std::vector<float> bias(c.channels_out);
      if (c.bias != nullptr) bias.assign(c.bias, c.bias + c.channels_out);
      if (c.added != nullptr && !c.added_whole)
        for (size_t i = 0; i < bias.size(); ++i) bias[i] += c.added[i];
      winograd::Plan p;
      p.height = int(c.height);
      p.width = int(c.width);
      p.channels_in = c.channels_in;
      p.channels_out = c.channels_out;
      p.tiles_x = (c.width + 3) / 4;
      p.tiles = p.tiles_x * ((c.height + 3) / 4);
      p.x = c.scale == nullptr ? c.x : activated.get();
      p.w = c.w;
      p.bias = bias.data();
      p.added = c.added_whole ? c.added : nullptr;
      p.y = c.y;
      winograd::convolve(kernels_.filtering, p, runner);
    });
  }
};

class Conv : public Convolving {
 public:
  static constexpr const char* kName = "Conv";

  explicit Conv(const Attributes& of)
      : Convolving(of),
        stride_(of.count("stride")),
        pads_{of.count("pad_top"), of.count("pad_left"), of.count("pad_bottom"),
              of.count("pad_right")} {
    require(stride_ == 1 || stride_ == 2, "stride 1 or 2");
  }

  void compute(const Context& context) const {
    each(context, stride_, pads_, [&](const Convolution& c, const Runner& runner) {
      require(c.kernel == 3 || (c.kernel == 1 && c.stride == 1),
              "a 3×3 kernel, or a 1×1 kernel with stride 1");
      kernels_.convolve(c, runner);
    });
  }

 private:
  size_t stride_;
  Pads pads_;
};

class Product : Computing {
 public:
  static constexpr const char* kName = "MatMul";
  static constexpr size_t kInputs = 4, kNeeded = 2, kWeights = 1, kAdded = 3;

  explicit Product(const Attributes& of) : gated_(of.count("gated") != 0) {}

  void compute(const Context& context) const {
    const Tensor x = context.input(0), w = context.input(1), b = context.input(2);
    const Tensor added = context.input(3);
    require(!x.shape.empty() && w.shape.size() == 2 && x.shape.back() == w.shape[0] &&
                w.shape[0] > 0 && (!gated_ || w.shape[1] % 2 == 0),
            "X (…, length) and W (length, width)");
    require(b.data == nullptr || b.size() == w.shape[1], "B (width,)");
    std::vector<size_t> shape = x.shape;
    shape.back() = w.shape[1] / (gated_ ? 2 : 1);
    require(added.data == nullptr || added.shape == shape, "added as the output");
    MatMul m{};
    m.x = x.data;
    m.w = {w.data, w.half};
    m.bias = b.data;
    m.added = added.data;
    m.y = context.output(shape);
    m.length = w.shape[0];
    m.width = shape.back();
    m.rows = x.size() / m.length;
    m.gated = gated_;
    kernels_.multiply(m, Runner(context, *scratch_));
  }

 private:
  bool gated_;
};

class FusedAttention : Computing {
 public:
  static constexpr const char* kName = "Attention";
  static constexpr size_t kInputs = 3, kNeeded = 3;
  static constexpr size_t kWeights = kInputs, kAdded = kInputs;  // none

  explicit FusedAttention(const Attributes& of)
      : heads_(of.count("heads")), scale_(of.number("scale")) {}

  void compute(const Context& context) const {
    const Tensor q = context.input(0), k = context.input(1), v = context.input(2);
    require(q.shape.size() == 3 && k.shape.size() == 3 && v.shape == k.shape &&
                k.shape[0] == q.shape[0] && k.shape[2] == q.shape[2] && k.shape[1] > 0 &&
                heads_ > 0 && q.shape[2] % heads_ == 0,
            "Q (n, queries, heads · depth), K and V (n, keys, heads · depth)");
    require(q.shape[2] / heads_ <= kMostDepth, "heads of at most 1024");
    Attention t{};
    t.q = q.data;
    t.k = k.data;
    t.v = v.data;
    t.y = context.output(q.shape);
    t.batch = q.shape[0];
    t.queries = q.shape[1];
    t.keys = k.shape[1];
    t.heads = heads_;
    t.depth = q.shape[2] / heads_;
    t.scale = scale_;
    kernels_.attend(t, Runner(context, *scratch_));
  }

 private:
  size_t heads_;
  float scale_;
};

class Gate : Computing {
 public:
  static constexpr const char* kName = "Gate";
  static constexpr size_t kInputs = 2, kNeeded = 1;
  static constexpr size_t kWeights = kInputs, kAdded = kInputs;  // none

  explicit Gate(const Attributes&) {}

  void compute(const Context& context) const {
    const Tensor x = context.input(0), b = context.input(1);
    require(!x.shape.empty() && x.shape.back() > 0 && x.shape.back() % 2 == 0,
            "X (…, 2 · width)");
    require(b.data == nullptr || b.size() == x.shape.back(), "B (2 · width,)");
    std::vector<size_t> shape = x.shape;
    const size_t width = shape.back() /= 2, rows = x.size() / 2 / width;
    float* const y = context.output(shape);
    constexpr size_t kRows = 16;  // of a task
    context.parallel((rows + kRows - 1) / kRows, [&](size_t task) {
      const size_t first = kRows * task;
      kernels_.gate(x.data + first * 2 * width, b.data, std::min(kRows, rows - first), width,
                    y + first * width);
    });
  }
};

const ort::Operator<WinogradConv> winograd_conv;
const ort::Operator<Conv> conv;
const ort::Operator<Product> product;
const ort::Operator<FusedAttention> attention;
const ort::Operator<Gate> gate;

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
    for (const ort::CustomOp* op : {static_cast<const ort::CustomOp*>(&winograd_conv),
                                    static_cast<const ort::CustomOp*>(&conv),
                                    static_cast<const ort::CustomOp*>(&product),
                                    static_cast<const ort::CustomOp*>(&attention),
                                    static_cast<const ort::CustomOp*>(&gate)})
      if (status == nullptr) status = ort::CustomOpDomain_Add::call(api, domain, op);
  });
  if (status != nullptr) return status;
  return ort::AddCustomOpDomain::call(api, options, domain);
}

// Whether bfloat16 products are fast here: 1 or 0.
extern "C" __attribute__((visibility("default"))) int mdrt_has_tiles() {
  return has_tiles() ? 1 : 0;
}
