#include "exec/cuda/publish.h"

namespace sbrt {
namespace {

__global__ void publish(int64_t* word, int64_t value) {
  __threadfence_system();
  *const_cast<volatile int64_t*>(word) = value;
}

constexpr unsigned kPoll = 500;  // ns between two polls over the bus

__global__ void await(const int64_t* word, int64_t value) {
  while (*const_cast<const volatile int64_t*>(word) < value) __nanosleep(kPoll);
  __threadfence_system();
}

}  // namespace

cudaError_t publish_on(cudaStream_t stream, int64_t* word, int64_t value) {
  publish<<<1, 1, 0, stream>>>(word, value);
  return cudaGetLastError();
}

cudaError_t await_on(cudaStream_t stream, const int64_t* word, int64_t value) {
  await<<<1, 1, 0, stream>>>(word, value);
  return cudaGetLastError();
}

cudaError_t has_code() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, publish);
  return error == cudaSuccess ? cudaFuncGetAttributes(&attributes, await) : error;
}

}  // namespace sbrt
