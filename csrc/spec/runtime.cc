#include "spec/runtime.h"

#include <unistd.h>

#include <algorithm>
#include <limits>

#include "core/check.h"
#include "spec/lanes.h"

namespace sbrt {
namespace {

void bind_unit(LaneUnit& unit, const Model& model, const RuntimeConfig& c, int64_t max_len,
               bool drafts) {
  LaneShape shape;
  shape.max_len = max_len;
  shape.max_rows = kMaxRows;
  shape.branches = drafts ? c.max_branches : 0;
  shape.tail_slots = drafts ? std::max(1, c.max_gamma) : 0;
  shape.threads = c.num_threads;
  shape.debug = c.debug;
  unit.lane = model.bind(shape);
  for (int i = 0; i < c.num_threads; ++i) unit.scratch.emplace_back(model.vocab());
}

void check_config(const RuntimeConfig& c, const Model& target) {
  check_within("max_model_len", int64_t{2}, target.max_positions(), c.max_model_len);
  check_within("num_threads", 1, 1024, c.num_threads);
  check_within("draft_threads", 1, c.num_threads, c.draft_threads);
  check_within("num_speculative_tokens", 0, kMaxChain, c.max_gamma);
  check_within("num_branches", 1, kCandidates, c.max_branches);
  check_within("vocab", 0, target.vocab(), c.vocab);
  check_within("first_round", int64_t{1}, int64_t{1} << 62, c.first_round);
}

}  // namespace

Runtime::Runtime(std::shared_ptr<const Model> target, std::shared_ptr<const Model> draft,
                 const RuntimeConfig& config)
    : config_(config), process_(getpid()), models_{std::move(target), std::move(draft)} {
  check<InvalidInput>(models_[0] != nullptr, "runtime: a target model is needed");
  check_config(config_, *models_[0]);
  exec_ = config.sim ? make_sim_exec() : make_cpu_exec();
  block_ = Buffer<Control>(1);
  records_ = Buffer<Records>(1);
  trunk_ = Buffer<int32_t>(config.max_model_len + kSlots);
  control_ = block_.data();
  control_->trunk = trunk_.data();
  bind_unit(target_, *models_[0], config_, config.max_model_len, false);
  int vocab = models_[0]->vocab();
  if (models_[1]) {
    control_->draft_limit = std::min(config.max_model_len, models_[1]->max_positions());
    bind_unit(draft_, *models_[1], config_, control_->draft_limit, true);
    vocab = std::min(vocab, models_[1]->vocab());
  }
  if (config_.vocab == 0) config_.vocab = vocab;
  check_within("vocab", 2, vocab, config_.vocab);
  shaping_ = ShapingStore(config_.vocab);
  record_graphs();
  target_.stream = exec_->stream(config_.num_threads);
  if (models_[1]) draft_.stream = exec_->stream(config_.num_threads);
  choose_width(target_, control_->target_rows);
  if (models_[1]) choose_width(draft_, control_->draft_rows);
  round_ = selected_round_ = committed_round_ = config.first_round - 1;
  fences_.verify_done.counter().store(round_);
  fences_.draft_ready.counter().store(round_);
}

Runtime::~Runtime() { close(); }

void Runtime::close() {
  end();
  if (process_ != getpid()) {  // a forked child: there is nobody to join, so nothing is freed
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

void Runtime::record_graphs() {
  Control* c = control_;
  const LaneArgs target{c, &target_.lane->ring()};
  const SelectArgs chosen{c, records_.data(), &selected_round_};
  const ChooseArgs rows{target_.lane->logits(),
                        target_.lane->vocab(),
                        config_.vocab,
                        &c->target_rows,
                        c,
                        target_.scratch.data(),
                        c->choice,
                        nullptr};
  settle_target_.add(settle_target, target, true);
  adopt_.add(adopt_certain, chosen, true);
  verify_.add(target_rows, target, true);
  target_.lane->add_forward(verify_, &c->target_rows, true);
  verify_.add(choose_rows, rows);
  select_.add(select, chosen, true);
  prefill_target_.add(prefill_target_rows, target, true);
  target_.lane->add_forward(prefill_target_, &c->target_rows, false);
  if (!draft_.lane) return;

  const LaneArgs draft{c, &draft_.lane->ring()};
  const ChooseArgs laws{draft_.lane->logits(),
                        draft_.lane->vocab(),
                        config_.vocab,
                        &c->draft_rows,
                        c,
                        draft_.scratch.data(),
                        nullptr,
                        c->row_law};
  settle_draft_.add(settle_draft, draft, true);
  draft_.lane->add_forward(catch_up_, &c->draft_rows, true);
  catch_up_.add(choose_laws, laws);
  catch_up_.add(keep_laws, draft, true);
  plan_.add(plan, draft, true);
  draft_.lane->add_forward(step_, &c->draft_rows, true);
  step_.add(choose_laws, laws);
  step_.add(extend, draft, true);
  prefill_draft_.add(prefill_draft_rows, draft, true);
  draft_.lane->add_forward(prefill_draft_, &c->draft_rows, false);
}

// A lane that runs alone may use every thread, but a small one is quicker with fewer: what the
// meetings of a team cost is not known beforehand, so it is timed, the widths in turn. A forward
// that is long anyway takes all. No result depends on it.
void Runtime::choose_width(LaneUnit& unit, RowTable& rows) {
  constexpr int kBursts = 16;
  constexpr double kLong = 0.01;
  unit.width = config_.num_threads;
  if (config_.num_threads == 1 || config_.sim) return;
  rows.head = 0;
  rows.n = 1;
  rows.row[0] = {0, 0, 0, -1, Mask::upto(1), Mask::none()};
  unit.lane->add_forward(unit.one_row, &rows, true);
  std::vector<double> best(config_.num_threads + 1, std::numeric_limits<double>::infinity());
  for (int burst = 0; burst < kBursts; ++burst)
    for (int width = config_.num_threads; width > 0; width /= 2) {
      best[width] = std::min(best[width], seconds_of(unit, width));
      if (best[width] > kLong) return;
    }
  unit.width = static_cast<int>(std::min_element(best.begin() + 1, best.end()) - best.begin());
}

// Seconds a forward, of a short burst.
double Runtime::seconds_of(LaneUnit& unit, int width) {
  constexpr int kSteps = 4;
  const int64_t begin = Trace::now(), value = unit.timed.reached() + 1;
  for (int i = 0; i < kSteps; ++i) unit.stream->launch(unit.one_row, width);
  unit.stream->record(unit.timed, value);
  exec_->wait(unit.timed, value);
  return static_cast<double>(Trace::now() - begin) * 1e-9 / kSteps;
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
  check_within("num_speculative_tokens", 0, config_.max_gamma, r.policy.gamma);
  check_within("num_branches", 0, config_.max_branches, r.policy.branches);
  check_within("confidence_threshold", 0.0f, 1.0f, r.policy.epsilon);
  check<InvalidInput>(r.policy.gamma == 0 || draft_.lane != nullptr,
                      "method: drafting needs a draft model and none was given");
  check_within("temperature", 0.0f, 1e6f, r.sampling.temperature);
  check_within("top_p", 0.0f, 1.0f, r.sampling.top_p);
  check_within("min_p", 0.0f, 1.0f, r.sampling.min_p);
  check_within("top_k", 0, 1 << 30, r.sampling.top_k);
  check_shaping(r.shaping, config_.vocab);
}

void Runtime::start_block(const Request& r) {
  Control& c = *control_;
  const int64_t length = static_cast<int64_t>(r.prompt.size());
  std::copy(r.prompt.begin(), r.prompt.end(), c.trunk);
  c.sampling = r.sampling;
  shaping_.start(r, c);
  c.policy = r.policy;
  c.limit = std::min(length + r.max_tokens, config_.max_model_len);
  c.head = length - 1;
  c.chain.size = c.chain.depth = c.adopted = 0;
  c.chain.token[0] = r.prompt.back();
  c.chain.parent[0] = -1;
  c.chain.level[0] = 0;
  c.chain.mask[0] = Mask::upto(1);
  c.outcome = {};
  c.outcome.branch = -1;
  c.branch_count = c.draft_idle = 0;
  c.target_have = c.draft_have = 0;
}

void Runtime::check_usable() const {
  check(target_.stream != nullptr, "engine: expected an open one, this one has been closed");
  check(process_ == getpid(), "engine: it belongs to process ", process_, ", this is its fork ",
        getpid(), " without its threads; make a new engine here");
}

void Runtime::begin(const Request& request) {
  check_usable();
  check_request(request);
  end();
  settle_down();
  stats_ = {};
  finish_ = Finish::none;
  stop_token_ = -1;
  error_.clear();
  interrupted_.store(false);
  start_block(request);
  stop_tokens_ = request.stop_tokens;
  prompt_ = control_->head + 1;
  emitted_ = 0;
  committed_.clear();
  committed_.reserve(control_->limit - control_->head + kSlots);
  if (request.max_tokens == 0) {
    finish_ = Finish::length;
    return;
  }
  pieces_left_ = (control_->head + kMaxRows - 1) / kMaxRows;
  drafts_ = request.policy.gamma > 0 && control_->head < control_->draft_limit;
  begun_ = Trace::now();
  prefilling_ = live_ = true;
}

RoundShape Runtime::shape() const {
  const Policy& p = control_->policy;
  const bool alone = p.gamma == 0 || p.serial;
  const int share = config_.num_threads - config_.draft_threads;
  return {p.gamma, p.serial != 0, alone ? target_.width : std::max(1, share),
          alone ? draft_.width : config_.draft_threads};
}

void Runtime::commit(int64_t round) {
  const Record& record = records_[0].of(round);
  const uint32_t word = record.get(0, round);
  const uint32_t error = word >> 28;
  const int n = static_cast<int>(word >> 8 & 255);
  // Tokens before a failed row were fine, the failed row's own was not.
  const int tokens = error ? n : n + 1;
  for (int i = 0; i < tokens && examine(static_cast<int32_t>(record.get(2 + i, round))); ++i) {
  }
  if (error && live_) {
    live_ = false;
    finish_ = Finish::error;
    error_ = error == kNanRow ? "the target's logits are not a number"
                              : "the sampling parameters leave no token";
  }
  count(record, round, !live_);
}

// Takes one token into the output; false if it ends the sequence. A stop beats the length.
bool Runtime::examine(int32_t token) {
  committed_.push_back(token);
  ++emitted_;
  if (std::find(stop_tokens_.begin(), stop_tokens_.end(), token) != stop_tokens_.end()) {
    finish_ = Finish::stop;
    stop_token_ = token;
  } else if (emitted_ == control_->limit - prompt_) {
    finish_ = Finish::length;
  } else {
    return true;
  }
  live_ = false;
  return false;
}

void Runtime::count(const Record& record, int64_t round, bool ended) {
  const uint32_t word = record.get(0, round);
  const int depth = word & 255, n = word >> 8 & 255, branches = word >> 16 & 255;
  ++stats_.rounds;
  ++stats_.histogram[n];
  stats_.draft_tokens += depth;
  stats_.accepted += n;
  stats_.branches += branches;
  stats_.discarded_branch_tokens += record.get(1, round);
  if (branches > 0 && !ended) {
    ++stats_.branch_rounds;
    stats_.branch_hits += word >> 24 & 1;
  }
  stats_.draft_limit_rounds += word >> 25 & 1;
}

void Runtime::end() { live_ = false; }

}  // namespace sbrt
