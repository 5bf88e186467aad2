#include <algorithm>
#include <iterator>

#include "core/check.h"
#include "exec/exec.h"

namespace sbrt {
namespace {

constexpr const char* kBackends[] = {"cpu", "sim", "dry", "dry_cuda",
                                     "cuda"};  // in the order of the enum Backend

}  // namespace

const char* name_of(Backend backend) { return kBackends[static_cast<int>(backend)]; }

Backend backend_named(const std::string& name) {
  const auto found = std::find(std::begin(kBackends), std::end(kBackends), name);
  check<InvalidInput>(found != std::end(kBackends),
                      "backend: expected cpu, sim, dry, dry_cuda or cuda but got ", name);
  return static_cast<Backend>(found - std::begin(kBackends));
}

std::unique_ptr<Exec> make_exec(Backend backend, const ExecOptions& options) {
  switch (backend) {
    case Backend::cuda:
      return make_cuda_exec(options.device, options.second);
    case Backend::dry_cuda:
      return make_dry_cuda_exec(options.parts, options.second);
    case Backend::dry:
      return make_dry_exec(options.parts, options.second);
    case Backend::sim:
      return options.is_virtual ? make_virtual_exec() : make_sim_exec();
    default:
      return make_cpu_exec();
  }
}

}  // namespace sbrt
