// Packs rows while memory or threads run out. With the argument "rows", the buffer of a row cannot
// be allocated. With "threads", no thread can be started. Prints the exception that reached the
// caller, or the number of wrong weights (test_packed.py).
#include <atomic>
#include <cstdio>
#include <cstring>
#include <new>
#include <system_error>
#include <vector>

#include "ops/packed.h"

namespace {

constexpr int64_t kOut = 64, kIn = 1 << 15;  // so large that eight threads share the work
std::atomic<bool> no_rows{false}, no_threads{false};

}  // namespace

// Called before every allocation. test_packed.py inserts these calls, and those of before_thread.
void before_allocation(size_t bytes) {
  if (no_rows && bytes == kIn * sizeof(float)) throw std::bad_alloc();
}
void before_thread() {
  if (no_threads) throw std::system_error(EAGAIN, std::generic_category());
}

int main(int argc, char** argv) {
  const char* what = argc > 1 ? argv[1] : "";
  std::vector<uint8_t> levels(kOut * kIn);
  for (size_t i = 0; i < levels.size(); ++i) levels[i] = static_cast<uint8_t>(i * 7 % 251);
  const std::vector<float> scales(kOut * kIn / sbrt::kInt8.group, 0.5f);
  sbrt::PackedMatrix matrix(sbrt::kFloat32, kOut, kIn);
  no_rows = std::strcmp(what, "rows") == 0;
  no_threads = std::strcmp(what, "threads") == 0;
  try {
    matrix.pack(0, {levels.data(), scales.data(), nullptr, kOut, kIn}, sbrt::kInt8);
  } catch (const std::bad_alloc&) {
    std::puts("bad_alloc");
    return 0;
  }
  no_rows = false;
  std::vector<float> row(kIn);
  int64_t wrong = 0;
  for (int64_t o = 0; o < kOut; ++o) {
    matrix.read(o, row.data());
    for (int64_t k = 0; k < kIn; ++k)
      wrong += row[k] != 0.5f * static_cast<float>(static_cast<int8_t>(levels[o * kIn + k]));
  }
  std::printf("%lld wrong\n", static_cast<long long>(wrong));
}
