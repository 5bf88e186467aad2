// The backends by name, and what each can do. Code outside this folder asks for a capability and
// never which backend it has.
#pragma once

#include <string>

namespace sbrt {

// `dry` is sim and records what was enqueued. `dry_cuda` does so too, and imitates cuda.
enum class Body { cpu, sim, dry, dry_cuda, cuda };

struct Capabilities {
  const char* name;      // of the backend, or of the one that it imitates, in messages
  bool has_host_memory;  // ops run in the host's memory: they reach lists, KV and features there
  bool has_teams;        // several members of a team run an op
  bool captures;         // ops are captured graphs and kernels, and it launches several as one
  bool runs_ahead;       // a round may be enqueued before the record of the last one is read
  bool can_be_timed;     // its clock measures the time of real work
  bool grows_lazily;     // memory of a seat is committed when a sequence reaches it
  bool reuses_prefixes;  // the host copies KV between seats
  bool rejects;          // acceptance rejection
};

constexpr Capabilities capabilities_of(Body body) {
  const bool is_device = body == Body::cuda || body == Body::dry_cuda, on_host = !is_device;
  return {.name = is_device           ? "cuda"
                  : body == Body::cpu ? "cpu"
                                      : "sim",
          .has_host_memory = on_host,
          .has_teams = body == Body::cpu,
          .captures = is_device,
          .runs_ahead = body != Body::sim,
          .can_be_timed = body != Body::sim && body != Body::dry,
          .grows_lazily = on_host,
          .reuses_prefixes = on_host,
          .rejects = on_host};
}

const char* name_of(Body body);
Body body_named(const std::string& name);  // throws InvalidInput

}  // namespace sbrt
