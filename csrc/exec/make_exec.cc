#include <algorithm>
#include <iterator>

#include "core/check.h"
#include "exec/exec.h"

namespace sbrt {
namespace {

constexpr const char* kBodies[] = {"cpu", "sim", "dry", "dry_cuda", "cuda"};  // as Body has them

}  // namespace

const char* name_of(Body body) { return kBodies[static_cast<int>(body)]; }

Body body_named(const std::string& name) {
  const auto found = std::find(std::begin(kBodies), std::end(kBodies), name);
  check<InvalidInput>(found != std::end(kBodies),
                      "body: expected cpu, sim, dry, dry_cuda or cuda but got ", name);
  return static_cast<Body>(found - std::begin(kBodies));
}

std::unique_ptr<Exec> make_exec(Body body, const ExecOptions& options) {
  switch (body) {
    case Body::cuda:
      return make_cuda_exec(options.device, options.second);
    case Body::dry_cuda:
      return make_dry_cuda_exec(options.parts, options.second >= 0);
    case Body::dry:
      return make_dry_exec(options.parts, options.second >= 0);
    case Body::sim:
      return options.is_virtual ? make_virtual_exec() : make_sim_exec();
    default:
      return make_cpu_exec();
  }
}

}  // namespace sbrt
