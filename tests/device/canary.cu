// Commits one fault that compute-sanitizer must report, one for each of its tools:
// canary memcheck | racecheck | synccheck
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>

constexpr int kThreads = 64;

// Writes one element after the end.
__global__ void write_outside(int* out, int n) { out[n] = 1; }

// Each thread reads an element that another thread writes, without a barrier between them.
__global__ void race(int* out) {
  __shared__ int cell[kThreads];
  cell[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = cell[(threadIdx.x + 33) % kThreads];
}

// Only a quarter of the threads reaches the barrier.
__global__ void meet_alone(int* out) {
  if (threadIdx.x < kThreads / 4) __syncthreads();
  out[threadIdx.x] = 1;
}

int main(int argc, char** argv) {
  const char* kind = argc > 1 ? argv[1] : "";
  constexpr int kCount = 256;  // fills its allocation, so that nothing valid follows it
  int* out = nullptr;
  cudaStream_t stream = nullptr;
  if (cudaMalloc(&out, kCount * sizeof(int)) != cudaSuccess) return 3;
  if (cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess) return 3;
  if (std::strcmp(kind, "memcheck") == 0) {
    write_outside<<<1, 1, 0, stream>>>(out, kCount);
  } else if (std::strcmp(kind, "racecheck") == 0) {
    race<<<1, kThreads, 0, stream>>>(out);
  } else if (std::strcmp(kind, "synccheck") == 0) {
    meet_alone<<<1, kThreads, 0, stream>>>(out);
  } else {
    std::printf("usage: canary memcheck | racecheck | synccheck\n");
    return 2;
  }
  std::printf("%s\n", cudaGetErrorString(cudaStreamSynchronize(stream)));
  return 0;
}
