#include "spec/runtime.h"

#include <unistd.h>

#include <algorithm>

#include "core/check.h"
#include "exec/nvtx.h"
#include "ops/philox.h"
#include "state/parts.h"

namespace sbrt {
namespace {

constexpr int64_t kReserved = 1 << 20;  // tokens between two take() without an allocation

bool is_on_device(const RuntimeConfig& c) {
  return c.body == Body::cuda || c.body == Body::dry_cuda;
}

void bind_unit(LaneUnit& unit, const Model& model, const RuntimeConfig& c, int64_t max_len,
               bool drafts) {
  LaneShape shape;
  shape.max_len = max_len;
  shape.max_rows = kMaxRows;
  if (drafts) {
    // What is drafted last takes no slot: it does not go through the draft.
    const int uneven = c.max_width > 1 ? 2 : 1;  // likely branches grow more than others
    const int slots = 1 + uneven * c.max_width * (c.max_gamma - 1);
    shape.branches = c.max_branches;
    shape.tail_slots = std::clamp(slots, 1, kMaxTail);
    shape.max_rows = std::clamp(c.max_branches * c.max_width, kMaxRows, kMaxStepRows);
  }
  shape.threads = c.num_threads;
  shape.debug = c.debug;
  shape.features = !drafts && (c.hrad || c.keep_features);
  shape.on_device = is_on_device(c);
  shape.stream = unit.stream->handle();
  unit.max_rows = shape.max_rows;
  unit.lane = model.bind(shape);
  for (int i = 0; i < c.num_threads && !shape.on_device; ++i)
    unit.scratch.emplace_back(std::max(model.vocab(), c.vocab));
}

// What the ops of a device do not do yet.
void check_on_device(const RuntimeConfig& c) {
  const auto refuse = [](bool asked, const char* what) {
    check<InvalidInput>(!asked, "device: ", what, " is not on cuda yet");
  };
  refuse(c.rejection, "acceptance rejection");
  refuse(!c.tuned.empty(), "the method auto");
}

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
  check_within("vocab", 0, target.vocab(), c.vocab);
  check_within("first_round", int64_t{1}, int64_t{1} << 62, c.first_round);
  check<InvalidInput>(c.body == Body::sim || !c.costs,
                      "costs: expected the sim body but got another");
  if (is_on_device(c)) check_on_device(c);
}

std::unique_ptr<Exec> make_exec(const RuntimeConfig& c) {
  if (c.costs) return make_virtual_exec();
  if (c.body == Body::cuda) return make_cuda_exec(c.device);
  if (c.body == Body::dry_cuda) return make_dry_cuda_exec(&name_of);
  if (c.body == Body::dry) return make_dry_exec(&name_of);
  return c.body == Body::sim ? make_sim_exec() : make_cpu_exec();
}

}  // namespace

Runtime::Runtime(std::shared_ptr<const Model> target, std::shared_ptr<const Model> draft,
                 const RuntimeConfig& config)
    : config_(config), process_(getpid()), models_{std::move(target), std::move(draft)} {
  check<InvalidInput>(models_[0] != nullptr, "runtime: a target model is needed");
  check_config(config_, *models_[0]);
  if (config_.vocab == 0) config_.vocab = models_[0]->vocab();
  check_within("vocab", 2, models_[0]->vocab(), config_.vocab);
  exec_ = make_exec(config);
  make_memory();
  make_streams();  // lanes on a device capture on theirs
  bind_unit(target_, *models_[0], config_, config.max_model_len, false);
  make_features();
  if (models_[1]) {
    sequence_->draft_limit = std::min(config.max_model_len, models_[1]->longest());
    bind_unit(draft_, *models_[1], config_, sequence_->draft_limit, true);
    sequence_->draft_vocab = models_[1]->vocab();
  }
  check_holes(config_.holes, config_.vocab);
  shaping_ = ShapingStore(*exec_, config_.vocab, config_.holes);
  make_scores();
  record_graphs();
  prepare_graphs();
  round_ = *ended_.host() = committed_round_ = config.first_round - 1;
  fences_.verify_done.counter().store(round_);
  fences_.chain_ready.counter().store(round_);
  fences_.draft_ready.counter().store(round_);
  warm_up();
}

Runtime::~Runtime() { close(); }

void Runtime::close() {
  end();
  if (is_forked()) {  // a forked child: there is nobody to join, so nothing is freed
    // NOLINTBEGIN(bugprone-unused-return-value)
    static_cast<void>(draft_.stream.release());
    static_cast<void>(target_.stream.release());
    static_cast<void>(exec_.release());
    // NOLINTEND(bugprone-unused-return-value)
  }
  for (LaneUnit* unit : {&draft_, &target_}) unit->stream.reset();  // joins before anything goes
  for (LaneUnit* unit : {&draft_, &target_}) unit->lane.reset();
  for (auto& model : models_) model.reset();
}

void Runtime::check_request(const Request& r) const {
  check<InvalidInput>(!r.prompt.empty(), "prompt: expected at least one token but got none");
  check<InvalidInput>(static_cast<int64_t>(r.prompt.size()) < config_.max_model_len,
                      "prompt: expected fewer tokens than max_model_len ", config_.max_model_len,
                      " but got ", r.prompt.size());
  for (const int32_t token : r.prompt) check_within("prompt token", 0, config_.vocab - 1, token);
  for (const int32_t token : r.stop_tokens)
    check_within("stop token", 0, models_[0]->vocab() - 1, token);
  check_within("max_tokens", int64_t{0}, int64_t{1} << 40, r.max_tokens);
  if (!r.tuned) check_policy(r.policy);
  check<InvalidInput>(!r.tuned || tuner_, "method: this engine was not built to choose one");
  check_within("temperature", 0.0f, 1e6f, r.sampling.temperature);
  check_within("top_p", 0.0f, 1.0f, r.sampling.top_p);
  check_within("min_p", 0.0f, 1.0f, r.sampling.min_p);
  check_within("top_k", 0, 1 << 30, r.sampling.top_k);
  check_shaping(r.shaping, config_.vocab);
  shaping_.check_request(r.shaping);
}

void Runtime::check_policy(const Policy& p) const {
  check_within("num_speculative_tokens", 0, config_.max_gamma, p.gamma);
  check_within("num_branches", 0, config_.max_branches, p.branches);
  check_within("ranking", int32_t{kFirst}, int32_t{kLikely}, p.ranking);
  check_within("width", 1, config_.max_width, p.width);
  check_within("nodes", 1, kMaxChain, p.nodes);
  check_within("confidence_threshold", 0.0f, 1.0f, p.epsilon);
  check_within("on_miss", int32_t{kGoOn}, int32_t{kLookup}, p.on_miss);
  check_within("burst", 0, kMaxChain, p.burst);
  check_within("burst_width", 1, kCandidates, p.burst_width);
  check<InvalidInput>(!p.hrad || config_.hrad, "method: H-RAD needs a classifier, none was given");
  check_within("lambda", 0.0f, 100.0f, p.lambda);
  check_within("theta", -100.0f, 1.0f, p.theta);
  check<InvalidInput>(!p.rejection || config_.rejection,
                      "acceptance: expected coupled, as the engine was built for, got rejection");
  // A tree has no last node.
  check<InvalidInput>(makes_paths(p) || p.gamma == 0 || p.ranking == kLikely,
                      "method: branches at the chain's end need chains that are paths");
  const bool drafts = p.gamma > 0 || (p.on_miss == kBurst && p.burst > 0);
  check<InvalidInput>(!drafts || draft_.lane != nullptr,
                      "method: drafting needs a draft model and none was given");
}

void Runtime::start_sequence(const Request& r) {
  Sequence& c = *sequence_;
  const int64_t length = static_cast<int64_t>(r.prompt.size());
  std::copy(r.prompt.begin(), r.prompt.end(), trunk_.host());
  c.sampling = r.sampling;
  shaping_.start(r, c);
  c.policy = r.tuned ? config_.tuned[0] : r.policy;
  c.prices.known = 0;
  if (c.rank)  // as far as the last sequence came
    std::fill_n(ranks_.host(), std::min<int64_t>(ranks_.size(), c.head + kSlots), kUnknownRank);
  c.trunk_hash = 0;
  for (const int32_t token : r.prompt) c.trunk_hash = extended(c.trunk_hash, token);
  c.limit = std::min(length + r.max_tokens, config_.max_model_len);
  c.head = length - 1;
  c.chain.size = c.chain.depth = c.lost = c.no_mass = 0;
  c.chain.drawn = 1;
  c.chain.token[0] = r.prompt.back();
  c.chain.parent[0] = -1;
  c.chain.level[0] = 0;
  c.chain.mask[0] = Mask::upto(1);
  c.outcome = {};
  c.cut = Cut::confident;
  c.outcome.branch = -1;
  c.branch_count = c.draft_idle = c.step = 0;
  c.sharpness = r.sampling.temperature == 0 ? 2.5f : 1.0f;
  c.draft_nodes = Mask::none();
  c.target_have = c.draft_have = 0;
  exec_->upload(trunk_.block(), r.prompt.size() * sizeof(int32_t));
  send_sequence();
}

bool Runtime::is_forked() const { return process_ != getpid(); }

void Runtime::check_usable() const {
  check(target_.stream != nullptr, "engine: expected an open one, this one has been closed");
  check(!is_forked(), "engine: it belongs to process ", process_, ", this is its fork ", getpid(),
        " without its threads; make a new engine here");
}

// Between sequences: nothing is left of the last one.
void Runtime::start_over() {
  end();
  settle_down();
  stats_ = {};
  missed_ = true;
  drafted_ = prefilling_ = false;
  log_.clear();
  finish_ = Finish::none;
  stop_token_ = -1;
  error_.clear();
  interrupted_.store(false);
  prompt_ = emitted_ = chain_nodes_ = 0;
  target_.feed.fed = draft_.feed.fed = 0;
  committed_.clear();
  taken_.clear();
}

void Runtime::begin(const Request& request) {
  check_usable();
  check_request(request);
  start_over();
  start_sequence(request);
  stop_tokens_ = request.stop_tokens;
  prompt_ = sequence_->head + 1;
  const int64_t most = std::min(sequence_->limit - sequence_->head + kSlots, kReserved);
  committed_.reserve(most);
  taken_.reserve(most);
  if (request.max_tokens == 0) {
    finish_ = Finish::length;
    return;
  }
  tuned_ = request.tuned;
  fuse_rounds();
  const RoundShape first = shape();
  const bool drafts = tuned_ ? tuner_->drafts() : first.burst + first.gamma > 0;
  drafts_ = drafts && sequence_->head < sequence_->draft_limit;
  if (tuned_) tuner_->begin(*sequence_);
  begun_ = now();
  prefilling_ = live_ = true;
}

// What the forwards of the next round cost in virtual time.
void Runtime::price_lanes(const RoundShape& how) {
  if (!config_.costs) return;
  const LaneCosts& costs = config_.costs->of(how.gamma > 0);
  target_.cost = costs.target.data();
  draft_.cost = costs.draft.data();
  besides_ = config_.costs->besides(how.burst > 0, how.gamma > 0);
}

// Most nodes of a chain, of this policy and of the one before.
int32_t Runtime::most_chain() const {
  return std::max(chain_nodes_, most_nodes(sequence_->policy));
}

// How far the draft may be behind the trunk in the next `rounds` rounds; the host knows the head of the
// first. A round whose chain ends at the draft's limit is one that the draft sits out. A serial draft
// that sat out once is never fed again.
DraftLag Runtime::lag_within(int rounds) const {
  if (tuned_) return DraftLag::any;
  if (sequence_->policy.gamma == 0) return DraftLag::none;
  const int64_t nodes = most_chain(), head = prompt_ - 1 + emitted_ + (rounds - 1) * (nodes + 1);
  return head + nodes < sequence_->draft_limit ? DraftLag::none : DraftLag::chain;
}

// Decides which graphs of the lanes the next round takes. Nothing is in flight.
void Runtime::bound_rows() {
  lag_ = lag_within(1);
  target_.most = draft_.most = row_bounds(sequence_->policy, most_chain(), lag_);
  chain_nodes_ = most_nodes(sequence_->policy);
}

// Of the next round. A sequence starts as after a miss.
RoundShape Runtime::shape() const {
  const Policy& p = sequence_->policy;
  const int share = std::max(1, config_.num_threads - config_.draft_threads);
  RoundShape shape;
  shape.gamma = p.gamma;
  shape.burst = missed_ && p.on_miss == kBurst ? p.burst : 0;
  shape.target_width = p.gamma > 0 ? share : target_.width;
  shape.draft_width = p.gamma > 0 ? config_.draft_threads : draft_.width;
  shape.burst_width = draft_.width;
  return shape;
}

void Runtime::commit(int64_t round) {
  exec_->note("read_record", {parts(Part::record), {}});
  const Record& record = records_.host()->of(round);
  const uint32_t word = record.get(0, round);
  const uint32_t error = word >> 28;
  const int n = static_cast<int>(word >> 8 & 255);
  // Tokens before a failed row were fine, the failed row's own was not.
  const int tokens = error ? n : n + 1;
  const int64_t before = emitted_;
  for (int i = 0; i < tokens && examine(static_cast<int32_t>(record.get(2 + i, round))); ++i) {
  }
  if (error && live_) {
    live_ = false;
    finish_ = Finish::error;
    error_ = error == kNanRow ? "the target's logits are not a number"
                              : "the sampling parameters leave no token";
  }
  count(record, round, emitted_ - before, !live_);
}

// Takes one token into the output; false if it ends the sequence. A stop beats the length.
bool Runtime::examine(int32_t token) {
  committed_.push_back(token);
  ++emitted_;
  if (std::find(stop_tokens_.begin(), stop_tokens_.end(), token) != stop_tokens_.end()) {
    finish_ = Finish::stop;
    stop_token_ = token;
  } else if (emitted_ == sequence_->limit - prompt_) {
    finish_ = Finish::length;
  } else {
    return true;
  }
  live_ = false;
  return false;
}

void Runtime::count(const Record& record, int64_t round, int64_t tokens, bool ended) {
  const uint32_t word = record.get(0, round);
  const int depth = word & 255, n = word >> 8 & 255, branches = word >> 16 & 255;
  missed_ = (word >> 24 & 1) == 0;
  ++stats_.rounds;
  ++stats_.histogram[n];
  stats_.draft_tokens += depth;
  stats_.accepted += n;
  stats_.branches += branches;
  stats_.discarded_branch_tokens += record.get(1, round);
  const bool hit = !ended && (word >> 24 & 1) != 0;
  stats_.branch_rounds += branches > 0 && !ended;
  stats_.branch_hits += hit;
  log_.put({round, depth, n, branches, hit, static_cast<int32_t>(tokens)});
  stats_.draft_limit_rounds += word >> 25 & 1;
  stats_.empty_residuals += word >> 26 & 1;
}

void Runtime::end() { live_ = false; }

}  // namespace sbrt
