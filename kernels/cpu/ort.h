// What an operator sees of ONNX Runtime: tensors, threads, errors.
#pragma once

#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "ort_abi.h"

namespace ort {

// Throws what a call returned, if it is not success.
inline void check(const Api* api, Status* status) {
  if (status == nullptr) return;
  const std::string message = GetErrorMessage::call(api, static_cast<const Status*>(status));
  ReleaseStatus::call(api, status);
  throw std::runtime_error(message);
}

struct Tensor {
  const float* data = nullptr;  // null for an optional input that is not there
  std::vector<size_t> shape;
  const uint16_t* half = nullptr;  // in the place of data, where it holds float16

  size_t size() const {
    size_t count = 1;
    for (size_t side : shape) count *= side;
    return count;
  }
};

// An operator's attributes, when it is made.
class Attributes {
 public:
  Attributes(const Api* api, const KernelInfo* info) : api_(api), info_(info) {}

  size_t count(const char* name) const {
    int64_t value = 0;
    check(api_, KernelInfoGetAttribute_int64::call(api_, info_, name, &value));
    if (value < 0) throw std::runtime_error(std::string(name) + " is negative");
    return size_t(value);
  }
  float number(const char* name) const {
    float value = 0.0f;
    check(api_, KernelInfoGetAttribute_float::call(api_, info_, name, &value));
    return value;
  }

 private:
  const Api* api_;
  const KernelInfo* info_;
};

// One run of an operator.
class Context {
 public:
  Context(const Api* api, KernelContext* context) : api_(api), context_(context) {}

  Tensor input(size_t index) const {
    size_t count = 0;
    check(api_, KernelContext_GetInputCount::call(
                    api_, static_cast<const KernelContext*>(context_), &count));
    const Value* value = nullptr;
    if (index < count)
      check(api_, KernelContext_GetInput::call(
                      api_, static_cast<const KernelContext*>(context_), index, &value));
    Tensor tensor;
    if (value == nullptr) return tensor;
    ShapeInfo* info = nullptr;
    check(api_, GetTensorTypeAndShape::call(api_, value, &info));
    size_t rank = 0;
    int type = kFloat;
    Status* status = GetTensorElementType::call(api_, static_cast<const ShapeInfo*>(info), &type);
    if (status == nullptr)
      status = GetDimensionsCount::call(api_, static_cast<const ShapeInfo*>(info), &rank);
    std::vector<int64_t> sides(rank);
    if (status == nullptr)
      status = GetDimensions::call(api_, static_cast<const ShapeInfo*>(info), sides.data(), rank);
    ReleaseTensorTypeAndShapeInfo::call(api_, info);
    check(api_, status);
    if (type != kFloat && type != kHalf)
      throw std::runtime_error("input " + std::to_string(index) + " is neither float32 nor float16");
    tensor.shape.assign(sides.begin(), sides.end());
    const float* memory = data(const_cast<Value*>(value));
    if (type == kFloat)
      tensor.data = memory;
    else
      tensor.half = reinterpret_cast<const uint16_t*>(memory);
    return tensor;
  }

  float* output(const std::vector<size_t>& shape) const {
    const std::vector<int64_t> sides(shape.begin(), shape.end());
    Value* value = nullptr;
    check(api_, KernelContext_GetOutput::call(api_, context_, size_t{0}, sides.data(), sides.size(),
                                              &value));
    return data(value);
  }

  // task(0), …, task(count − 1) in the session's thread pool, each when a thread is free; what one
  // of them throws is thrown here once all have ended.
  template <typename Task>
  void parallel(size_t count, const Task& task) const {
    struct All {
      const Task& task;
      std::exception_ptr thrown;
      std::mutex mutex;
    } all{task, nullptr, {}};
    check(api_, KernelContext_ParallelFor::call(
                    api_, static_cast<const KernelContext*>(context_),
                    +[](void* of_all, size_t index) {
                      All& all = *static_cast<All*>(of_all);
                      try {
                        all.task(index);
                      } catch (...) {  // it must not reach a thread that is not ours
                        const std::lock_guard<std::mutex> lock(all.mutex);
                        all.thrown = std::current_exception();
                      }
                    },
                    count, count, static_cast<void*>(&all)));
    if (all.thrown) std::rethrow_exception(all.thrown);
  }

 private:
  float* data(Value* value) const {
    void* memory = nullptr;
    check(api_, GetTensorMutableData::call(api_, value, &memory));
    return static_cast<float*>(memory);
  }

  const Api* api_;
  KernelContext* context_;
};

constexpr int kFail = 1;

// The operator `Kernel`: a class with kName, kInputs (of which kNeeded are required, and kWeights may
// be float16; the output may overwrite kAdded, if there is such an input), a constructor from Attributes, and compute(const Context&).
template <typename Kernel>
struct Operator : CustomOp {
  struct Made {
    const Api* api;
    Kernel kernel;
  };

  Operator() : CustomOp() {
    version = 18;  // the first that asks what may be computed in place
    GetName = [](const CustomOp*) { return Kernel::kName; };
    GetExecutionProviderType = [](const CustomOp*) -> const char* { return nullptr; };  // the CPU
    GetInputType = [](const CustomOp*, size_t index) -> int {
      return index == Kernel::kWeights ? kAny : kFloat;
    };
    GetInputTypeCount = [](const CustomOp*) { return Kernel::kInputs; };
    GetOutputType = [](const CustomOp*, size_t) -> int { return kFloat; };
    GetOutputTypeCount = [](const CustomOp*) { return size_t{1}; };
    KernelDestroy = [](void* made) { delete static_cast<Made*>(made); };
    GetInputCharacteristic = [](const CustomOp*, size_t index) -> int {
      return index < Kernel::kNeeded ? kRequired : kOptional;
    };
    GetOutputCharacteristic = [](const CustomOp*, size_t) -> int { return kRequired; };
    GetStartVersion = [](const CustomOp*) { return 1; };
    GetEndVersion = [](const CustomOp*) { return 1 << 30; };
    GetMayInplace = [](int** inputs, int** outputs) -> size_t {
      static int input = Kernel::kAdded, output = 0;
      *inputs = &input;
      *outputs = &output;
      return Kernel::kAdded < Kernel::kInputs ? 1 : 0;
    };
    ReleaseMayInplace = [](int*, int*) {};  // they are static
    GetInputMemoryType = [](const CustomOp*, size_t) -> int { return kDefaultMemory; };
    CreateKernelV2 = [](const CustomOp*, const Api* api, const KernelInfo* info, void** made) {
      return guarded(api, [&] { *made = new Made{api, Kernel(Attributes(api, info))}; });
    };
    KernelComputeV2 = [](void* of_made, KernelContext* context) {
      const Made& made = *static_cast<const Made*>(of_made);
      return guarded(made.api, [&] { made.kernel.compute(Context(made.api, context)); });
    };
  }

 private:
  template <typename Task>
  static Status* guarded(const Api* api, const Task& task) {
    std::string message;
    try {
      task();
      return nullptr;
    } catch (const std::bad_alloc&) {
      message = "out of memory";
    } catch (const std::exception& error) {
      message = error.what();
    } catch (...) {
      message = "an unknown exception";
    }
    message = std::string("mdrt.") + Kernel::kName + ": " + message;
    return CreateStatus::call(api, kFail, message.c_str());
  }
};

}  // namespace ort
