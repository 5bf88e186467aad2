#include "decode/engine.h"

#include <unistd.h>

#include <utility>

#include "core/check.h"
#include "decode/stopwatch.h"

namespace sbrt {
namespace {

int64_t end_of(int64_t begin, double seconds) {
  check_within("seconds", 0.0, 1e9, seconds);
  return seconds == 0 ? Exec::kForever : begin + static_cast<int64_t>(seconds * 1e9);
}

}  // namespace

Engine::Engine(std::shared_ptr<const Model> target, std::shared_ptr<const Model> draft,
               const RuntimeConfig& config)
    : process_(getpid()),
      resources_(std::move(target), std::move(draft), config),
      graphs_(resources_),
      pump_(resources_, graphs_) {
  Stopwatch(resources_, pump_).choose_widths();
  const RuntimeConfig& c = resources_.config;
  if (c.tuned.empty()) return;
  for (const Policy& policy : c.tuned) check_policy(policy, c, resources_.has_draft());
  constexpr double kSeconds = 0.25;
  const Costs costs = c.costs ? *c.costs : c.tuning ? *c.tuning : measure(kSeconds);
  for (int seat = 0; seat < seats(); ++seat)
    tuners_.push_back(std::make_unique<Tuner>(c.tuned, costs, c.max_model_len + kSlots));
}

Engine::~Engine() { close(); }

void Engine::close() {
  end();
  if (is_forked()) resources_.leave();
  resources_.close();
}

bool Engine::is_forked() const { return process_ != getpid(); }

void Engine::check_usable() const {
  check(resources_.target.stream != nullptr,
        "engine: expected an open one, this one has been closed");
  check(!is_forked(), "engine: it belongs to process ", process_, ", this is its fork ", getpid(),
        " without its threads; make a new engine here");
}

void Engine::start_over() {
  end();
  pump_.start_over();
}

void Engine::check_seat(int seat) const { check_within("seat", 0, seats() - 1, seat); }

void Engine::release(int seat) {
  at(seat).sequence.end();
  at(seat).taken = false;
}

void Engine::end() {
  for (int seat = 0; seat < seats(); ++seat) {
    pump_.seat(seat).sequence.end();
    pump_.seat(seat).taken = false;
  }
}

void Engine::prepare(const Policy& policy) {
  check_usable();
  check_policy(policy, resources_.config, resources_.has_draft());
  start_over();
  SeatSet all = 0;
  for (int seat = 0; seat < seats(); ++seat) all |= bit(seat);
  for (const float top_p : {1.0f, 0.5f}) {
    for_each(all, [&](int seat) {
      Sequence& c = resources_.at(seat);
      c.policy = normalised(policy);
      c.shaping = {};  // the default: no logits are shaped
      c.shaping.active = !resources_.config.holes.empty();
      c.sampling.temperature = 1;
      c.sampling.top_p = top_p;
    });
    for (const SeatSet members : {bit(0), all}) pump_.fuse(members);
  }
}

void Engine::check_admissible(const Request& request) const {
  check_usable();
  check_request(request, resources_.config, resources_.models[0]->vocab(), resources_.has_draft());
  resources_.memories[0].shaping[0].check_request(request.shaping);
}

int Engine::admit(const Request& request) {
  check_admissible(request);
  const int seat = pump_.free_seat(request.prompt);
  check(seat >= 0, "engine: expected a free seat, all ", seats(), " are taken");
  const bool feeds_all = request.logprobs.prompt >= 0;
  const Kept kept = feeds_all ? Kept{} : pump_.kept(seat, request.prompt);
  // If start_sequence throws, the old KV in the seat must not be reused.
  pump_.seat(seat).keeps = false;
  resources_.start_sequence(seat, request, kept.target, kept.draft);
  // Graphs can be fused only while no round is in flight. With more seats, rounds of other
  // sequences may be in flight here. Then Pump::prepare_round() fuses the graphs.
  if (resources_.config.can().captures && seats() == 1) {
    pump_.idle(Exec::kForever);
    if (request.max_tokens > 0) pump_.fuse(bit(seat));
  }
  pump_.begin(seat, request, request.tuned ? free_tuner() : nullptr);
  return seat;
}

// Returns the first tuner that no sequence uses. So requests that come one at a time all use the
// same tuner, which has seen most rounds.
Tuner* Engine::free_tuner() const {
  for (const auto& tuner : tuners_) {
    bool is_free = true;
    for (int seat = 0; seat < seats(); ++seat)
      is_free = is_free && !(pump_.seat(seat).taken && pump_.seat(seat).tuner == tuner.get());
    if (is_free) return tuner.get();
  }
  return nullptr;
}

void Engine::begin(const Request& request) {
  check_admissible(request);  // first, so that a refused request drops no sequence
  start_over();
  admit(request);
}

void Engine::run(int64_t max_rounds, double seconds) {
  check_usable();
  check_within("max_rounds", int64_t{0}, int64_t{1} << 60, max_rounds);
  const int64_t until = end_of(Trace::now(), seconds);
  try {
    pump_.run(max_rounds, until);
  } catch (...) {
    for (int i = 0; i < seats(); ++i) {
      HostSeat& seat = pump_.seat(i);
      seat.keeps = false;
      seat.sequence.end();
      // The caller gets the exception instead of the tokens.
      seat.sequence.drop_tokens();
      resources_.logprobs[i].drop();
    }
    pump_.settle_down();
    throw;
  }
}

bool Engine::idle(double seconds) {
  const int64_t until = end_of(Trace::now(), seconds);
  // A fork has no worker threads to wait for.
  if (is_forked() || !resources_.target.stream) return true;
  return pump_.idle(until);
}

void Engine::keep_trace(bool is_on) {
  check_usable();
  idle(0);
  resources_.exec->keep_trace(is_on);
}

void Engine::profile(bool is_on) {
  check_usable();
  idle(0);
  resources_.exec->profile(is_on);
}

Costs Engine::measure(double seconds, float temperature) {
  check_usable();
  check<InvalidInput>(resources_.config.can().can_be_timed, "costs: virtual time has its own");
  check_within("seconds", 0.0, 1e6, seconds);
  check_within("temperature", 0.0f, 1e6f, temperature);
  start_over();
  const Costs costs = Stopwatch(resources_, pump_).measure(seconds, temperature);
  start_over();  // drops the sequence that measure() started
  return costs;
}

std::vector<float> Engine::features(int seat) const {
  check_seat(seat);
  check<InvalidInput>(!pump_.has_round_in_flight(), "features: expected no round in flight");
  const Cells<float>& shown = resources_.hrad_memory.shown();
  if (shown.size() > 0) {
    const auto each = static_cast<int64_t>(shown.size()) / seats();
    return {shown.host() + seat * each, shown.host() + (seat + 1) * each};
  }
  const Buffer<float>& kept = resources_.features;
  check<InvalidInput>(kept.size() > 0, "features: expected an engine that keeps them");
  const int64_t width = resources_.target.lane->feature_width();
  const float* mine = kept.data() + seat * Hrad::room(width);
  return {mine, mine + Hrad::inputs(width)};
}

}  // namespace sbrt
