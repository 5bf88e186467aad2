// NVTX ranges in the domain `sbrt`, for profilers, if the engine's config enables ranges. While no
// profiler runs, a range costs one test of a pointer.
#pragma once

#if defined(SBRT_WITH_CUDA) && SBRT_WITH_CUDA
#include <nvtx3/nvToolsExt.h>

#include <charconv>
#include <cstdint>
#include <cstring>

namespace sbrt {

inline constexpr bool kHasNvtx = true;

inline nvtxDomainHandle_t nvtx_domain() {
  static const nvtxDomainHandle_t domain = nvtxDomainCreateA("sbrt");
  return domain;
}

class NvtxRange {
 public:
  NvtxRange(bool is_on, const char* name) : is_on_(is_on) {
    if (is_on_) begin(name);
  }
  // Opens a range with the name "NAME NUMBER".
  NvtxRange(bool is_on, const char* name, int64_t number) : is_on_(is_on) {
    if (!is_on_) return;
    char text[64];
    const size_t length = strnlen(name, 32);
    std::memcpy(text, name, length);
    text[length] = ' ';
    *std::to_chars(text + length + 1, text + sizeof text - 1, number).ptr = '\0';
    begin(text);
  }
  ~NvtxRange() {
    if (is_on_) nvtxDomainRangePop(nvtx_domain());
  }
  NvtxRange(const NvtxRange&) = delete;

 private:
  static void begin(const char* name) {
    nvtxEventAttributes_t attributes{};
    attributes.version = NVTX_VERSION;
    attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
    attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
    attributes.message.ascii = name;
    nvtxDomainRangePushEx(nvtx_domain(), &attributes);
  }

  bool is_on_;
};

}  // namespace sbrt
#else
#include <cstdint>

namespace sbrt {

// This build has no NVTX headers, because they come with a CUDA compiler.
inline constexpr bool kHasNvtx = false;

struct NvtxRange {
  NvtxRange(bool, const char*) {}
  NvtxRange(bool, const char*, int64_t) {}
  ~NvtxRange() {}  // not defaulted, so that compilers do not report unused variables
};

}  // namespace sbrt
#endif
