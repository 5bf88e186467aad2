// Names the backends, and says what each of them can do. Code outside this folder tests for a
// capability, never for a certain backend.
#pragma once

#include <string>

namespace sbrt {

// `dry` works like `sim` and also records all commands. `dry_cuda` works like `dry` and imitates
// `cuda`.
enum class Backend { cpu, sim, dry, dry_cuda, cuda };

// Numbers that stand in place of a second device's number. kNoSecond: the backend has only one
// memory. kHostMemory: the second memory is the host's, and worker threads run the ops that use it.
constexpr int kNoSecond = -1, kHostMemory = -2;

struct Capabilities {
  const char* name;      // the name in messages; for dry_cuda this is cuda
  bool has_host_memory;  // ops can access lists, KV and features in the host's memory
  bool has_teams;        // several members of a team can run one op together
  // Ops are kernels and captured graphs. Several of them can be fused into one launch.
  bool captures;
  bool runs_ahead;    // a round may be enqueued before the last round's record is read
  bool can_be_timed;  // the backend's clock measures real work
  bool grows_lazily;  // the memory of a seat is committed only as far as sequences reach
  // A token's KV has the same bits, whether a round or a prompt piece computed it.
  bool rounds_match_prompts;
};

constexpr Capabilities capabilities_of(Backend backend) {
  const bool is_device = backend == Backend::cuda || backend == Backend::dry_cuda,
             on_host = !is_device;
  return {.name = is_device                 ? "cuda"
                  : backend == Backend::cpu ? "cpu"
                                            : "sim",
          .has_host_memory = on_host,
          .has_teams = backend == Backend::cpu,
          .captures = is_device,
          .runs_ahead = backend != Backend::sim,
          .can_be_timed = backend != Backend::sim && backend != Backend::dry,
          .grows_lazily = on_host,
          .rounds_match_prompts = on_host};
}

const char* name_of(Backend backend);
Backend backend_named(const std::string& name);  // throws InvalidInput

}  // namespace sbrt
