// The configuration of an engine, and the limits that follow from it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "exec/backends.h"
#include "model/lane.h"
#include "decode/costs.h"
#include "round/hrad.h"
#include "decode/request.h"
#include "state/policy.h"

namespace sbrt {

struct RuntimeConfig {
  int64_t max_model_len = 0;   // length of the longest trunk, in tokens
  int32_t vocab = 0;           // number of the target's logits in use; 0: all
  std::vector<int32_t> holes;  // ids below `vocab` that no token has; their logits are masked
  int32_t num_threads = 1;     // total number of threads of both lanes
  // Number of threads, out of num_threads, that the draft uses while the lanes overlap.
  int32_t draft_threads = 1;
  // Cores for the worker threads of each lane. Each thread is pinned to one core of its lane, and
  // no thread works for both lanes. Empty: threads are not pinned.
  std::vector<int32_t> target_cores, draft_cores;
  int32_t max_gamma = 4;
  int32_t max_branches = 8;
  int32_t max_width = 1;     // most nodes that one draft step adds to a branch
  int32_t max_num_seqs = 1;  // number of seats
  // A new prompt may reuse the KV that a seat already has for the beginning of that prompt.
  bool reuses_prefixes = false;
  int32_t max_piece = kMaxRows;  // most prompt tokens that are fed between two rounds
  int64_t first_round = 1;       // number of the first round; some tests begin with a large number
  Backend backend = Backend::cpu;
  int32_t device = 0;  // number of the CUDA device
  // Number of the draft's own device, which has its own copy of the state. kHostMemory: the draft
  // runs on the host. kNoSecond: the draft runs on the target's device.
  int32_t draft_device = kNoSecond;
  bool draft_first = true;  // on a device: the draft's stream has the higher priority
  bool nvtx = false;        // mark rounds, graphs and prefill as NVTX ranges for profilers
  bool debug = false;       // write NaN to unused memory, and check the position of every slot
  std::shared_ptr<const Costs> costs;   // costs in virtual time; only on the sim backend
  std::vector<Policy> tuned;            // candidate policies of `auto`, plain decoding first
  std::shared_ptr<const Costs> tuning;  // costs that `auto` uses; null: they are measured
  std::shared_ptr<const Hrad> hrad;     // the H-RAD classifier; null: no policy may use H-RAD
  bool keep_features = false;           // keep the values for Engine::features()
  // Allow policies with the rejection rule, and allocate memory for them.
  bool rejection = false;

  Capabilities can() const { return capabilities_of(backend); }
  // True if each lane has its own device and its own copy of the state.
  bool is_apart() const { return draft_device != kNoSecond; }
  // Returns the number of threads that the target uses while the lanes overlap.
  int32_t target_share() const {
    return num_threads > draft_threads ? num_threads - draft_threads : 1;
  }
};

// Each of these functions throws InvalidInput. The message names the setting, the expected and the
// given value.
void check_config(const RuntimeConfig& config, const Model& target);
void check_policy(const Policy& policy, const RuntimeConfig& config, bool has_draft);
// target_vocab: number of logits of the target. The engine uses the first config.vocab of them.
void check_request(const Request& request, const RuntimeConfig& config, int32_t target_vocab,
                   bool has_draft);

}  // namespace sbrt
