#include "decode/config.h"

#include "core/check.h"
#include "exec/nvtx.h"
#include "decode/row_bounds.h"

namespace sbrt {
namespace {

// Throws InvalidInput if cores are given for a team that does not exist, or if the number of cores
// is not the number of threads.
void check_cores(const RuntimeConfig& c) {
  const auto target = static_cast<int32_t>(c.target_cores.size()),
             draft = static_cast<int32_t>(c.draft_cores.size());
  if (target + draft == 0) return;
  check<InvalidInput>(target == 0 || c.can().has_host_memory, "target_cores: expected none on ",
                      c.can().name, ", got ", target);
  const bool draft_has_team =
      c.can().has_host_memory ? c.is_apart() : c.draft_device == kHostMemory;
  check<InvalidInput>(draft == 0 || draft_has_team,
                      "draft_cores: expected a draft on the CPU with a memory of its own");
  check<InvalidInput>(target > 0 || !c.can().has_host_memory,
                      "target_cores: expected some next to draft_cores, got none");
  check_equal("num_threads next to cores", target + draft, c.num_threads);
  if (draft > 0) check_equal("draft_threads next to cores", draft, c.draft_threads);
}

}  // namespace

void check_config(const RuntimeConfig& c, const Model& target) {
  check<InvalidInput>(
      !c.nvtx || kHasNvtx,
      "nvtx: expected a build with a CUDA compiler (SBRT_CUDA=ON), got one without");
  check_within("max_model_len", int64_t{2}, target.longest(), c.max_model_len);
  check_within("num_threads", 1, 1024, c.num_threads);
  check_within("draft_threads", 1, c.num_threads, c.draft_threads);
  check_within("num_speculative_tokens", 0, kMaxChain, c.max_gamma);
  check_within("num_branches", 1, kMaxBranches, c.max_branches);
  check_within("width", 1, kCandidates, c.max_width);
  check_within("max_num_seqs", 1, kMaxSeats, c.max_num_seqs);
  check_within("tokens of a piece", 1, kMaxRows, c.max_piece);
  check_within("vocab", 0, target.vocab(), c.vocab);
  check_within("first_round", int64_t{1}, int64_t{1} << 62, c.first_round);
  check<InvalidInput>(c.backend == Backend::sim || !c.costs,
                      "costs: expected the sim backend but got another");
  check_within("draft_device", kHostMemory, 1023, c.draft_device);
  check_cores(c);
}

void check_request(const Request& r, const RuntimeConfig& c, int32_t target_vocab, bool has_draft) {
  check<InvalidInput>(!r.prompt.empty(), "prompt: expected at least one token but got none");
  check<InvalidInput>(static_cast<int64_t>(r.prompt.size()) < c.max_model_len,
                      "prompt: expected fewer tokens than max_model_len ", c.max_model_len,
                      " but got ", r.prompt.size());
  for (const int32_t token : r.prompt) check_within("prompt token", 0, c.vocab - 1, token);
  for (const int32_t token : r.stop_tokens) check_within("stop token", 0, target_vocab - 1, token);
  check_within("max_tokens", int64_t{0}, int64_t{1} << 40, r.max_tokens);
  if (!r.tuned) check_policy(r.policy, c, has_draft);
  check<InvalidInput>(!r.tuned || !c.tuned.empty(),
                      "method: this engine was not built to choose one");
  check_within("temperature", 0.0f, 1e6f, r.sampling.temperature);
  check_within("top_p", 0.0f, 1.0f, r.sampling.top_p);
  check_within("min_p", 0.0f, 1.0f, r.sampling.min_p);
  check_within("top_k", 0, 1 << 30, r.sampling.top_k);
  check_shaping(r.shaping, c.vocab);
  check_within("logprobs", -1, 1 << 30, r.logprobs.output);
  check_within("prompt_logprobs", -1, 1 << 30, r.logprobs.prompt);
}

void check_policy(const Policy& p, const RuntimeConfig& c, bool has_draft) {
  check_within("num_speculative_tokens", 0, c.max_gamma, p.gamma);
  check_within("num_branches", 0, c.max_branches, p.branches);
  check_within("ranking", int32_t{kFirst}, int32_t{kLikely}, p.ranking);
  check_within("width", 1, c.max_width, p.width);
  check_within("nodes", 1, kMaxChain, p.nodes);
  check_within("confidence_threshold", 0.0f, 1.0f, p.epsilon);
  check_within("on_miss", int32_t{kGoOn}, int32_t{kLookup}, p.on_miss);
  check_within("burst", 0, kMaxChain, p.burst);
  check_within("burst_width", 1, kCandidates, p.burst_width);
  check_within("hrad", 0, 1, p.hrad);
  check_within("rejection", 0, 1, p.rejection);
  check<InvalidInput>(!p.hrad || c.hrad, "method: H-RAD needs a classifier, none was given");
  check_within("lambda", 0.0f, 100.0f, p.lambda);
  check_within("theta", -100.0f, 1.0f, p.theta);
  check<InvalidInput>(!p.rejection || c.rejection,
                      "acceptance: expected coupled, as the engine was built for, got rejection");
  // Rankings other than kLikely make branches that continue the last node of a path. A tree has no
  // last node.
  check<InvalidInput>(makes_paths(p) || p.gamma == 0 || p.ranking == kLikely,
                      "method: branches at the chain's end need chains that are paths");
  check_within("lookup", 0, 1, p.lookup);
  const bool drafts = p.gamma > 0 || (p.on_miss == kBurst && p.burst > 0);
  check<InvalidInput>(!drafts || has_draft,
                      "method: drafting needs a draft model and none was given");
}

}  // namespace sbrt
