// The few entries of ONNX Runtime's C interface that a custom operator needs.
//
// The interface is a table of function pointers to which releases only ever append, so an entry
// keeps its place for good; the places below are those of ONNX Runtime 1.17 and later. Declaring
// them here means that building needs no ONNX Runtime headers, which its wheel does not carry.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ort {

struct Status;
struct KernelInfo;
struct KernelContext;
struct Value;
struct ShapeInfo;
struct SessionOptions;
struct CustomOpDomain;

using Function = void (*)();
struct Api {
  Function entries[275];
};
struct ApiBase {
  const Api* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};
constexpr uint32_t kLeastApi = 17;  // the first with KernelContext_ParallelFor

template <size_t place, typename Signature>
struct Entry {
  template <typename... Arguments>
  static auto call(const Api* api, Arguments... arguments) {
    return reinterpret_cast<Signature*>(api->entries[place])(arguments...);
  }
};

using CreateStatus = Entry<0, Status*(int code, const char* message)>;
using GetErrorMessage = Entry<2, const char*(const Status*)>;
using CreateCustomOpDomain = Entry<26, Status*(const char* name, CustomOpDomain**)>;
using CustomOpDomain_Add = Entry<27, Status*(CustomOpDomain*, const struct CustomOp*)>;
using AddCustomOpDomain = Entry<28, Status*(SessionOptions*, CustomOpDomain*)>;
using GetTensorMutableData = Entry<51, Status*(Value*, void**)>;
using GetTensorElementType = Entry<60, Status*(const ShapeInfo*, int*)>;
using GetDimensionsCount = Entry<61, Status*(const ShapeInfo*, size_t*)>;
using GetDimensions = Entry<62, Status*(const ShapeInfo*, int64_t*, size_t count)>;
using GetTensorTypeAndShape = Entry<65, Status*(const Value*, ShapeInfo**)>;
using KernelInfoGetAttribute_float =
    Entry<85, Status*(const KernelInfo*, const char* name, float*)>;
using KernelInfoGetAttribute_int64 =
    Entry<86, Status*(const KernelInfo*, const char* name, int64_t*)>;
using KernelContext_GetInputCount = Entry<88, Status*(const KernelContext*, size_t*)>;
using KernelContext_GetInput = Entry<90, Status*(const KernelContext*, size_t, const Value**)>;
using KernelContext_GetOutput =
    Entry<91, Status*(KernelContext*, size_t, const int64_t* shape, size_t rank, Value**)>;
using ReleaseStatus = Entry<93, void(Status*)>;
using ReleaseTensorTypeAndShapeInfo = Entry<99, void(ShapeInfo*)>;
using KernelContext_ParallelFor =
    Entry<274, Status*(const KernelContext*, void (*task)(void* data, size_t index), size_t total,
                       size_t batches, void* data)>;

enum ElementType : int { kAny, kFloat, kHalf = 10 };
enum Characteristic : int { kRequired, kOptional };
enum MemoryType : int { kDefaultMemory };

// A custom operator as ONNX Runtime of interface version 18 and later reads it.
struct CustomOp {
  uint32_t version;
  void* (*CreateKernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char* (*GetName)(const CustomOp*);
  const char* (*GetExecutionProviderType)(const CustomOp*);
  int (*GetInputType)(const CustomOp*, size_t);
  size_t (*GetInputTypeCount)(const CustomOp*);
  int (*GetOutputType)(const CustomOp*, size_t);
  size_t (*GetOutputTypeCount)(const CustomOp*);
  void (*KernelCompute)(void* kernel, KernelContext*);
  void (*KernelDestroy)(void* kernel);
  int (*GetInputCharacteristic)(const CustomOp*, size_t);
  int (*GetOutputCharacteristic)(const CustomOp*, size_t);
  int (*GetInputMemoryType)(const CustomOp*, size_t);
  int (*GetVariadicInputMinArity)(const CustomOp*);
  int (*GetVariadicInputHomogeneity)(const CustomOp*);
  int (*GetVariadicOutputMinArity)(const CustomOp*);
  int (*GetVariadicOutputHomogeneity)(const CustomOp*);
  Status* (*CreateKernelV2)(const CustomOp*, const Api*, const KernelInfo*, void** kernel);
  Status* (*KernelComputeV2)(void* kernel, KernelContext*);
  Function InferOutputShapeFn;
  int (*GetStartVersion)(const CustomOp*);
  int (*GetEndVersion)(const CustomOp*);
  size_t (*GetMayInplace)(int** inputs, int** outputs);
  void (*ReleaseMayInplace)(int* inputs, int* outputs);
  Function GetAliasMap, ReleaseAliasMap;
};

}  // namespace ort
