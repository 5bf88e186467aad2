#include "exec/cuda/publish.h"

namespace sbrt {
namespace {

__global__ void publish(int64_t* word, int64_t value) {
  __threadfence_system();
  *const_cast<volatile int64_t*>(word) = value;
}

}  // namespace

cudaError_t publish_on(cudaStream_t stream, int64_t* word, int64_t value) {
  publish<<<1, 1, 0, stream>>>(word, value);
  return cudaGetLastError();
}

cudaError_t has_code() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, publish);
}

}  // namespace sbrt
