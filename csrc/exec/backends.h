// The backends by name, and what each can do. Code outside this folder asks for a capability and
// never which backend it has.
#pragma once

#include <string>

namespace sbrt {

// `dry` is sim and records what was enqueued. `dry_cuda` does so too, and imitates cuda.
enum class Backend { cpu, sim, dry, dry_cuda, cuda };

struct Capabilities {
  const char* name;      // of the backend, or of the one that it imitates, in messages
  bool has_host_memory;  // ops run in the host's memory: they reach lists, KV and features there
  bool has_teams;        // several members of a team run an op
  bool captures;         // ops are captured graphs and kernels, and it launches several as one
  bool runs_ahead;       // a round may be enqueued before the record of the last one is read
  bool can_be_timed;     // its clock measures the time of real work
  bool grows_lazily;     // memory of a seat is committed when a sequence reaches it
  bool reuses_prefixes;  // the host copies KV between seats
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
          .reuses_prefixes = on_host};
}

const char* name_of(Backend backend);
Backend backend_named(const std::string& name);  // throws InvalidInput

}  // namespace sbrt
