// Sources of memory. Pages are anonymous memory that is committed lazily. A counter of allocations
// proves that rounds allocate nothing.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sbrt {

// Returns the number of allocations by this library since it was loaded. Each call of operator new
// and each Pages object counts as one allocation.
int64_t allocation_count();

// Large pages (2 MiB) avoid most of the address translations when all weights are read. The system
// uses a large page only where a whole one fits into adjacent memory of this kind. So reserve all
// such memory before touching any. A large page is committed whole, so do not use large pages for
// sparse memory.
enum class PageSize { small, large };

// Zeroed anonymous pages, aligned to 4096 bytes. The system commits a page when it is first
// touched. Move-only.
class Pages {
 public:
  Pages() = default;
  explicit Pages(size_t bytes, PageSize size = PageSize::small);
  ~Pages();
  Pages(Pages&& other) noexcept;
  Pages& operator=(Pages&& other) noexcept;

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// An array of `count` zeroed elements of T, in pages of its own.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t count, PageSize size = PageSize::small)
      : pages_(count * sizeof(T), size), count_(count) {}
  T* data() const { return pages_.as<T>(); }
  T& operator[](size_t i) const { return data()[i]; }
  size_t size() const { return count_; }

 private:
  Pages pages_;
  size_t count_ = 0;
};

}  // namespace sbrt
