// Ranges of the domain `sbrt` for profilers, around what the host enqueues; off unless SBRT_NVTX=1.
#pragma once

#include <nvtx3/nvToolsExt.h>

#include <cstdlib>
#include <cstring>
#include <string>

namespace sbrt {

inline nvtxDomainHandle_t nvtx_domain() {
  static const nvtxDomainHandle_t domain = [] {
    const char* asked = std::getenv("SBRT_NVTX");
    const bool is_on = asked && std::strcmp(asked, "1") == 0;
    return is_on ? nvtxDomainCreateA("sbrt") : nullptr;
  }();
  return domain;
}

class NvtxRange {
 public:
  explicit NvtxRange(const std::string& name) : domain_(nvtx_domain()) {
    if (!domain_) return;
    nvtxEventAttributes_t attributes{};
    attributes.version = NVTX_VERSION;
    attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
    attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
    attributes.message.ascii = name.c_str();
    nvtxDomainRangePushEx(domain_, &attributes);
  }
  ~NvtxRange() {
    if (domain_) nvtxDomainRangePop(domain_);
  }
  NvtxRange(const NvtxRange&) = delete;

 private:
  nvtxDomainHandle_t domain_;
};

}  // namespace sbrt
