// Memory for intermediate values, shared by all operators of the process, lent and taken back; it
// is freed when the last operator goes.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

class Scratch {
 public:
  ~Scratch() {
    for (const Piece& piece : idle_) std::free(piece.memory);
  }

  // The one that all operators share.
  static std::shared_ptr<Scratch> shared() {
    static std::mutex mutex;
    static std::weak_ptr<Scratch> one;
    const std::lock_guard<std::mutex> lock(mutex);
    std::shared_ptr<Scratch> scratch = one.lock();
    if (!scratch) one = scratch = std::make_shared<Scratch>();
    return scratch;
  }

  struct Return {
    Scratch* scratch;
    size_t bytes;
    void operator()(void* memory) const { scratch->give_back({bytes, memory}); }
  };
  template <typename T>
  using Lent = std::unique_ptr<T[], Return>;

  // At least `count` of T, on a cache line's border, holding anything.
  template <typename T>
  Lent<T> lend(size_t count) {
    const Piece piece = take(count * sizeof(T));
    return Lent<T>(static_cast<T*>(piece.memory), Return{this, piece.bytes});
  }

 private:
  struct Piece {
    size_t bytes;
    void* memory;
  };
  static constexpr size_t kPage = size_t{2} << 20;  // a large page, so that tiles miss no small ones

  // The smallest that suffices; else a new one, in the place of the largest idle one.
  Piece take(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    size_t best = idle_.size(), largest = 0;
    for (size_t i = 0; i < idle_.size(); ++i) {
      if (idle_[i].bytes >= bytes && (best == idle_.size() || idle_[i].bytes < idle_[best].bytes))
        best = i;
      if (idle_[i].bytes > idle_[largest].bytes) largest = i;
    }
    Piece piece{0, nullptr};
    if (best < idle_.size()) {
      piece = idle_[best];
      idle_.erase(idle_.begin() + ptrdiff_t(best));
      return piece;
    }
    if (!idle_.empty()) {
      std::free(idle_[largest].memory);
      idle_.erase(idle_.begin() + ptrdiff_t(largest));
    }
    idle_.reserve(idle_.size() + ++lent_);  // so that giving back cannot fail
    const size_t border = bytes >= kPage ? kPage : 64;
    piece.bytes = (bytes + border - 1) / border * border;
    piece.memory = std::aligned_alloc(border, piece.bytes);
    if (piece.memory == nullptr) throw std::bad_alloc();
#ifdef __linux__
    if (border == kPage) madvise(piece.memory, piece.bytes, MADV_HUGEPAGE);
#endif
    return piece;
  }

  void give_back(const Piece& piece) {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(piece);
  }

  std::mutex mutex_;
  std::vector<Piece> idle_;
  size_t lent_ = 0;  // pieces there ever were
};
