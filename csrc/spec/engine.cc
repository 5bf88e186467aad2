#include "spec/engine.h"

#include <unistd.h>

#include <utility>

#include "core/check.h"
#include "spec/stopwatch.h"

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
      pump_(resources_, graphs_, sequence_) {
  Stopwatch(*this, resources_, pump_).choose_widths();
  const RuntimeConfig& c = resources_.config;
  if (c.tuned.empty()) return;
  for (const Policy& policy : c.tuned) check_policy(policy, c, resources_.has_draft());
  constexpr double kSeconds = 0.25;
  const Costs costs = c.costs ? *c.costs : measure(kSeconds);
  tuner_ = std::make_unique<Tuner>(c.tuned, costs, c.max_model_len + kSlots);
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
  sequence_.reset();
}

void Engine::prepare(const Policy& policy) {
  check_usable();
  check_policy(policy, resources_.config, resources_.has_draft());
  start_over();
  Sequence& c = *resources_.sequence;
  c.policy = policy;
  for (const float top_p : {1.0f, 0.5f}) {
    c.sampling.temperature = 1;
    c.sampling.top_p = top_p;
    pump_.fuse();
  }
}

void Engine::begin(const Request& request) {
  check_usable();
  check_request(request, resources_.config, resources_.models[0]->vocab(), resources_.has_draft());
  resources_.shaping.check_request(request.shaping);
  start_over();
  resources_.start_sequence(request);
  sequence_.begin(request, resources_.sequence->limit);
  if (!sequence_.live()) return;
  pump_.fuse();
  pump_.begin(request.tuned ? tuner_.get() : nullptr);
}

void Engine::run(int64_t max_rounds, double seconds) {
  check_usable();
  check_within("max_rounds", int64_t{0}, int64_t{1} << 60, max_rounds);
  const int64_t until = end_of(Trace::now(), seconds);
  if (!sequence_.live()) return;
  try {
    pump_.run(max_rounds, until);
  } catch (...) {
    end();
    sequence_
        .drop_tokens();  // the caller gets the exception, and no token of this sequence any more
    pump_.settle_down();
    throw;
  }
}

bool Engine::idle(double seconds) {
  const int64_t until = end_of(Trace::now(), seconds);
  if (is_forked() || !resources_.target.stream) return true;  // a fork has no threads
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
  check<InvalidInput>(!resources_.config.in_virtual_order(), "costs: virtual time has its own");
  check_within("seconds", 0.0, 1e6, seconds);
  check_within("temperature", 0.0f, 1e6f, temperature);
  start_over();
  const Costs costs = Stopwatch(*this, resources_, pump_).measure(seconds, temperature);
  start_over();  // these rounds were nobody's
  return costs;
}

std::vector<float> Engine::features() const {
  check<InvalidInput>(!pump_.has_round_in_flight(), "features: expected no round in flight");
  const Cells<float>& shown = resources_.hrad_memory.shown();
  if (shown.size() > 0) return {shown.host(), shown.host() + shown.size()};
  const Buffer<float>& kept = resources_.features;
  check<InvalidInput>(kept.size() > 0, "features: expected a runtime that keeps them");
  return {kept.data(), kept.data() + Hrad::inputs(resources_.target.lane->feature_width())};
}

}  // namespace sbrt
