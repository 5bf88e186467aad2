// In a build without the cuda backend, these functions report that it is missing.
#include "exec/exec.h"

#if !defined(SBRT_WITH_CUDA) || !SBRT_WITH_CUDA
namespace sbrt {

std::string why_no_cuda() {
  return "device: cuda needs a build with a CUDA compiler (SBRT_CUDA=ON), this one has none";
}

std::unique_ptr<Exec> make_cuda_exec(int, int) { throw InvalidInput(why_no_cuda()); }

}  // namespace sbrt
#endif
