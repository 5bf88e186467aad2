// Commits one fault, which a tool of compute-sanitizer must report. The argument is the tool's
// name: canary memcheck | racecheck | synccheck
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>

constexpr int kThreads = 64;

// Writes the element that follows an array of n elements.
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
  constexpr int kCount = 256;  // the array fills its allocation, so that no valid memory follows
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
