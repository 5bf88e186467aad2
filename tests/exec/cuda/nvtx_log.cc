// A stand-in for a profiler: writes NVTX ranges to stderr. NVTX loads the library that
// NVTX_INJECTION64_PATH names.
#include <nvtx3/nvToolsExt.h>

#include <cstdio>
#include <cstring>

namespace {

thread_local int depth = 0;
int domain = 0;

nvtxDomainHandle_t make_domain(const char* name) {
  std::fprintf(stderr, "domain %s\n", name);
  return reinterpret_cast<nvtxDomainHandle_t>(&domain);
}
int push(nvtxDomainHandle_t, const nvtxEventAttributes_t* range) {
  std::fprintf(stderr, "range %d %s\n", depth, range->message.ascii);
  return depth++;
}
int pop(nvtxDomainHandle_t) { return --depth; }

}  // namespace

extern "C" int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t tables) {
  const auto* callbacks = static_cast<const NvtxExportTableCallbacks*>(tables(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable table = nullptr;
  unsigned size = 0;
  if (!callbacks || !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size))
    return 0;
  const auto set = [table](int at, auto* function) {
    *table[at] = reinterpret_cast<NvtxFunctionPointer>(function);
  };
  set(NVTX_CBID_CORE2_DomainCreateA, make_domain);
  set(NVTX_CBID_CORE2_DomainRangePushEx, push);
  set(NVTX_CBID_CORE2_DomainRangePop, pop);
  return 1;
}
