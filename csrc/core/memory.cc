#include "core/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <utility>

#include "core/check.h"

namespace {
std::atomic<int64_t> allocations{0};

[[maybe_unused]] void* counted(size_t bytes, size_t align) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* p = nullptr;
  align = std::max(align, sizeof(void*));  // posix_memalign takes no smaller alignment
  if (posix_memalign(&p, align, bytes ? bytes : 1) != 0) throw std::bad_alloc();
  return p;
}
}  // namespace

// These operators replace the global ones for this library only, because exports.map hides them. So
// only allocations by this library are counted. <new> declares the operators with default
// visibility, which -fvisibility=hidden does not change.
//
// AddressSanitizer replaces them itself. libstdc++ allocates with its operators, so a string that
// this library frees would be reported.
#if !defined(__SANITIZE_ADDRESS__)
void* operator new(size_t bytes) { return counted(bytes, alignof(std::max_align_t)); }
void* operator new[](size_t bytes) { return counted(bytes, alignof(std::max_align_t)); }
void* operator new(size_t bytes, std::align_val_t a) { return counted(bytes, size_t(a)); }
void* operator new[](size_t bytes, std::align_val_t a) { return counted(bytes, size_t(a)); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t, std::align_val_t) noexcept { std::free(p); }
#endif

namespace sbrt {

int64_t allocation_count() { return allocations.load(std::memory_order_relaxed); }

Pages::Pages(size_t bytes, [[maybe_unused]] PageSize size) : bytes_(bytes) {
  if (bytes == 0) return;
  allocations.fetch_add(1, std::memory_order_relaxed);
  data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
               -1, 0);
  if (data_ == MAP_FAILED) {
    data_ = nullptr;
    throw Error(sentence("memory: cannot reserve ", bytes, " bytes"));
  }
#if defined(MADV_HUGEPAGE)
  // madvise() only gives a hint, so its failure does no harm.
  if (size == PageSize::large) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
}

Pages::~Pages() {
  if (data_) munmap(data_, bytes_);
}

Pages::Pages(Pages&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Pages& Pages::operator=(Pages&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace sbrt
