// The backends by name, and what each can do. Code outside this folder tests for a capability,
// never for a certain backend.
#pragma once

#include <string>

namespace sbrt {

// `dry` is `sim` and also records all commands. `dry_cuda` does so too, and imitates `cuda`.
enum class Backend { cpu, sim, dry, dry_cuda, cuda };

struct Capabilities {
  const char* name;           // name in messages; that of the imitated backend, if there is one
  bool has_host_memory;       // ops access lists, KV and features in the host's memory
  bool has_teams;             // several members of a team run an op
  bool captures;              // ops are captured graphs and kernels; several are launched as one
  bool runs_ahead;            // a round may be enqueued before the record of the last one is read
  bool can_be_timed;          // the clock measures real work
  bool grows_lazily;          // pages of a seat's memory are committed when a sequence reaches them
  bool rounds_match_prompts;  // a token has the same KV whether a round or a prompt's piece fed it
  bool rejects;               // the rejection rule is supported
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
          .rounds_match_prompts = on_host,
          .rejects = on_host};
}

const char* name_of(Backend backend);
Backend backend_named(const std::string& name);  // throws InvalidInput

}  // namespace sbrt
