// What a kernel asks of its surroundings: threads and memory.
#pragma once

#include <algorithm>
#include <memory>
#include <thread>

#include "ort.h"
#include "scratch.h"

class Runner {
 public:
  Runner(const ort::Context& context, Scratch& scratch) : context_(context), scratch_(scratch) {}

  Scratch::Lent<float> floats(size_t count) const { return scratch_.lend<float>(count); }
  Scratch::Lent<uint32_t> words(size_t count) const { return scratch_.lend<uint32_t>(count); }

  // task(0), …, task(count − 1), each when one of the session's threads is free.
  template <typename Task>
  void parallel(size_t count, const Task& task) const {
    context_.parallel(count, task);
  }

  // How many threads there may be, to cut work by; ONNX Runtime does not tell.
  size_t cores() const { return std::max(1u, std::thread::hardware_concurrency()); }

 private:
  const ort::Context& context_;
  Scratch& scratch_;
};
