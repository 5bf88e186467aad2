// Every call of the CUDA runtime goes through `checked`. It turns an error into a message with the
// name and the place of the call. OnDevice selects a device for its own lifetime, and then restores
// the previous device.
#pragma once

#include <cuda_runtime_api.h>

#include <new>
#include <source_location>
#include <string_view>

#include "core/check.h"

namespace sbrt {

inline std::string_view file_of(const std::source_location& at) {
  const std::string_view path = at.file_name();
  return path.substr(path.rfind('/') + 1);
}

inline void checked(cudaError_t error, const char* call,
                    const std::source_location& at = std::source_location::current()) {
  if (error == cudaSuccess) [[likely]]
    return;
  static_cast<void>(cudaGetLastError());  // clears the error, so that no later CUDA call reports it
  throw Error(sentence(file_of(at), ":", at.line(), " ", call, ": ", cudaGetErrorString(error)));
}

// Returns true if a queried operation is done. The result "not ready" is no error. This function
// clears that result, so that no later CUDA call reports it.
inline bool is_done(cudaError_t state, const char* call,
                    const std::source_location& at = std::source_location::current()) {
  if (state == cudaErrorNotReady) {
    static_cast<void>(cudaGetLastError());
    return false;
  }
  checked(state, call, at);
  return true;
}

class OnDevice {
 public:
  explicit OnDevice(int device) : device_(device) {
    checked(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != device_) checked(cudaSetDevice(device_), "cudaSetDevice");
  }
  // For destructors. If the process is ending or is a fork, there is no CUDA context any more and
  // nothing to free. Then is_there() is false.
  OnDevice(int device, std::nothrow_t)
      : device_(device),
        is_there_(cudaGetDevice(&before_) == cudaSuccess && cudaSetDevice(device) == cudaSuccess) {}
  bool is_there() const { return is_there_; }
  ~OnDevice() {
    if (is_there_ && before_ != device_) static_cast<void>(cudaSetDevice(before_));
  }
  OnDevice(const OnDevice&) = delete;

 private:
  int device_, before_ = 0;
  bool is_there_ = true;
};

}  // namespace sbrt
