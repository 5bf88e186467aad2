#include "decode/stopwatch.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/check.h"
#include "state/parts.h"

namespace sbrt {
namespace {

constexpr int kShort = 2;  // number of draft steps in timed rounds
// In seconds; a lane whose forward takes longer always uses all threads.
constexpr double kLong = 0.01;
// In seconds; a forward that takes longer is measured as rarely as possible.
constexpr double kVeryLong = 0.05;

double median(std::vector<double> values) {
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

// Returns how many forwards to time as one series of about `busy` seconds, if one forward takes
// `seconds`. A lane that was idle is slow at first. So the first forwards, which do not count, keep
// the lane busy for some milliseconds.
Burst burst_of(double seconds, double busy) {
  const int counted = static_cast<int>(std::clamp(busy / seconds, 1.0, 16.0));
  return {seconds < kLong ? std::max(1, counted / 2) : 0, counted};
}

std::vector<int> up_to(int most) {
  std::vector<int> rows;
  for (const int n : {1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32, 48, 64, 128, 256, 512})
    if (n <= most) rows.push_back(n);
  return rows;
}

// Returns a cost table from measured times. It interpolates linearly between measurements, and
// beyond the last one it continues the last slope. Times must not fall as the number of rows grows.
// So a measured time is lowered if a forward of more rows took less.
CostTable table_of(const std::vector<int>& rows, std::vector<double> seconds) {
  for (size_t i = seconds.size() - 1; i > 0; --i)
    seconds[i - 1] = std::min(seconds[i - 1], seconds[i]);
  CostTable table{};
  for (int n = 1; n <= kCostRows; ++n) {
    size_t high = 0;
    while (high + 1 < rows.size() && rows[high] < n) ++high;
    double cost = seconds[high];
    if (high > 0)
      cost = seconds[high - 1] + (seconds[high] - seconds[high - 1]) * (n - rows[high - 1]) /
                                     (rows[high] - rows[high - 1]);
    table[n] = std::llround(cost * 1e9);
  }
  return table;
}

// Returns the predicted time in ns of the forwards of these rounds, whose chains are paths.
int64_t forwards_of(const std::vector<RoundEntry>& rounds, const Policy& policy,
                    const Costs& costs) {
  const LaneCosts& of = costs.of(policy.gamma > 0);
  const int steps = std::max(policy.gamma, policy.burst);
  int64_t sum = 0;
  // True: the last chain was fully accepted, so the draft must also process the chain's last node.
  bool whole = true;
  for (const RoundEntry& round : rounds) {
    const int64_t target = of.target[1 + round.depth];
    const int64_t first = of.draft[whole ? 2 : 1], step = of.draft[1];
    if (steps == 0)
      sum += target;
    else if (policy.gamma > 0)
      sum += std::max(target, first + steps * step);
    else
      sum += target + first + (steps - 1) * step;
    sum += costs.round;
    whole = round.n == round.depth;
  }
  return sum;
}

}  // namespace

void Stopwatch::choose_widths() {
  choose_width(r_.target);
  if (r_.has_draft()) choose_width(r_.draft);
}

// Returns the length in seconds of one series of forwards.
double Stopwatch::busy() const { return std::clamp(asked_ / 50, 0.005, 0.02); }

// Returns how often to time something: `times`, or fewer times if the caller allows less than
// kEnough seconds.
int Stopwatch::fewer(int times) const {
  constexpr double kEnough = 0.2;
  return std::max(1, static_cast<int>(times * std::min(1.0, asked_ / kEnough)));
}

// Fills a lane's batch with `n` rows of a path after a trunk of `head` tokens.
void Stopwatch::set_rows(LaneUnit& unit, int n, int64_t head) {
  const RingShape& ring = unit.lane->ring_shape();
  Batch& rows = *unit.batch;
  rows.head[0] = head;
  rows.first[0] = 0;
  rows.n = unit.timed_rows = n;
  for (int seat = 1; seat <= r_.count(); ++seat) rows.first[seat] = n;
  for (int i = 0; i < n; ++i) {
    const int at = i % kSlots;  // rows beyond kSlots write no KV
    const int64_t slot = i < kSlots ? ring.slot(0, head + at) : -1;
    rows.row[i] = {head + at, 0, static_cast<int32_t>(slot), -1,
                   0,         0, Mask::upto(at + 1),         Mask::none()};
  }
  r_.exec->note("set_rows", {{}, all_parts()});
  r_.exec->copy_over(*unit.scratch_block, 0, sizeof(Batch));
}

// Returns a request with a short prompt for plain decoding.
Request Stopwatch::short_request(float temperature) const {
  // Length of the prompt without its last token, which is never fed.
  constexpr int64_t kTokens = 128;
  Request request;
  request.policy = plain_policy();
  request.sampling = {};
  request.sampling.temperature = temperature;
  request.sampling.top_p = 1;
  request.prompt.assign(std::min(kTokens, (r_.config.max_model_len - 1) / 2) + 1, 0);
  return request;
}

// Feeds the prompt of short_request() to both lanes.
void Stopwatch::make_trunk(float temperature) {
  r_.start_sequence(0, short_request(temperature));
  const auto prefill = [this](LaneUnit& unit) {
    while (pump_.prompts().fed(unit, 0) < r_.at(0).head) {
      pump_.prompts().feed_piece(unit, 0, unit.width, false);
      r_.exec->wait(unit.feed.fed, unit.feed.pieces);
    }
  };
  prefill(r_.target);
  if (r_.has_draft() && r_.at(0).head < r_.at(0).draft_limit) prefill(r_.draft);
}

// Begins a request in seat 0. All requests have the same prompt, so its KV is computed only once.
void Stopwatch::begin(const Request& request) {
  pump_.settle_down();
  const Kept kept = pump_.kept(0, request.prompt);
  pump_.start_over();
  r_.start_sequence(0, request, kept.target, kept.draft);
  pump_.fuse(bit(0));
  pump_.begin(0, request, nullptr);
}

// Selects the number of threads for a lane that runs alone. The cost of a team's barriers is not
// known in advance, so this times all candidates in turn.
void Stopwatch::choose_width(LaneUnit& unit) {
  constexpr int kBursts = 16;
  constexpr Burst kOne{0, 1}, kSteps{2, 4};
  unit.width = unit.threads;
  if (unit.threads == 1 || !r_.can(unit).has_teams) return;
  set_rows(unit, 1, 0);
  seconds_of(unit, unit.width, kOne);  // not counted: the first forward touches all memory
  if (seconds_of(unit, unit.width, kOne) > kVeryLong) return;
  std::vector<double> best(unit.threads + 1, std::numeric_limits<double>::infinity());
  for (int burst = 0; burst < kBursts; ++burst)
    for (int width = unit.threads; width > 0; width /= 2) {
      best[width] = std::min(best[width], seconds_of(unit, width, kSteps));
      if (best[width] > kLong) return;
    }
  unit.width = static_cast<int>(std::min_element(best.begin() + 1, best.end()) - best.begin());
}

// Returns the mean time in seconds of a series of forwards. If the lane has a trace, the time
// excludes the host's part. The first forwards are not counted, because the caches hold other data.
double Stopwatch::seconds_of(LaneUnit& unit, int width, const Burst& burst) {
  const int64_t begin = Trace::now(), value = unit.timed.reached() + 1;
  const int launches = burst.first + burst.counted;
  for (int i = 0; i < launches; ++i) unit.stream->launch(unit.timed_forward, width);
  unit.stream->record(unit.timed, value);
  r_.exec->wait(unit.timed, value);
  const int64_t end = Trace::now();
  const std::vector<TraceEvent> events = unit.stream->trace().events(begin);
  if (static_cast<int>(events.size()) != launches)
    return static_cast<double>(end - begin) * 1e-9 / launches;
  int64_t ns = 0;
  for (int i = burst.first; i < launches; ++i) ns += events[i].end - events[i].begin;
  return static_cast<double>(ns) * 1e-9 / burst.counted;
}

// Returns the time of a forward in seconds, for each row count. The row counts are measured in
// turn, so that a disturbance affects all of them.
std::vector<double> Stopwatch::time_alone(LaneUnit& unit, const std::vector<int>& rows,
                                          double seconds) {
  constexpr size_t kMost = 25;
  const auto least = static_cast<size_t>(fewer(4));
  std::vector<std::vector<double>> found(rows.size());
  constexpr double kLate = 2;  // in seconds; after this time no further measurement begins
  const int64_t begin = Trace::now();
  const auto within = [&](size_t passes, double time) {
    return found.back().size() < passes && static_cast<double>(Trace::now() - begin) * 1e-9 < time;
  };
  while (found.back().empty() || within(least, kLate) || within(kMost, seconds)) {
    for (size_t i = 0; i < rows.size(); ++i) {
      set_rows(unit, rows[i], r_.at(0).head);
      const std::vector<double>& like = found[found[i].empty() && i > 0 ? i - 1 : i];
      const Burst burst = burst_of(like.empty() ? kVeryLong : like.back(), busy());
      found[i].push_back(seconds_of(unit, unit.width, burst));
    }
  }
  std::vector<double> costs;
  costs.reserve(found.size());
  for (auto& values : found) costs.push_back(median(std::move(values)));
  return costs;
}

// Returns the time in seconds of one forward of `timed` while the other lane is busy all the time.
double Stopwatch::time_beside(LaneUnit& timed, int rows, int width, LaneUnit& other, int other_rows,
                              int other_width) {
  constexpr int kTimes = 5;
  set_rows(timed, rows, r_.at(0).head);
  set_rows(other, other_rows, r_.at(0).head);
  const double mine = seconds_of(timed, width, {0, 1}),
               its = seconds_of(other, other_width, {0, 1});
  const Burst each = burst_of(mine, busy());
  const int times = mine > kVeryLong ? 1 : fewer(kTimes);
  const double all = (each.first + each.counted) * times * mine;
  const int forwards = std::clamp(static_cast<int>(2.5 * all / its) + 1, 1, 400);
  const int64_t value = other.timed.reached() + 1;
  for (int i = 0; i < forwards; ++i) other.stream->launch(other.timed_forward, other_width);
  other.stream->record(other.timed, value);
  std::vector<double> found;
  found.reserve(times);
  for (int i = 0; i < times; ++i) {
    const double seconds = seconds_of(timed, width, each);
    // The other lane has finished its work, so `timed` ran partly alone.
    if (i > 0 && other.timed.reached() >= value) break;
    found.push_back(seconds);
  }
  r_.exec->wait(other.timed, value);
  return median(std::move(found));
}

// Returns the time in seconds that a round takes in addition to its forwards. This is the host's
// part, and the time until a lane notices that the other lane is done. A draft also reloads its
// weights, which the target's weights displaced from the cache.
double Stopwatch::overhead(const Policy& policy, const Costs& costs, float temperature) {
  constexpr double kMedium = 0.002, kMost = 0.006;  // in seconds, for one forward of the target
  const double forward = static_cast<double>(costs.alone.target[1]) * 1e-9;
  // Above kMost the overhead counts as 0. Above kMedium fewer rounds are timed, and the overhead of
  // plain decoding counts as 0.
  const bool is_medium = forward > kMedium;
  if (forward > kMost || (is_medium && policy.gamma == 0 && policy.burst == 0)) return 0;
  const int kRounds = is_medium ? 6 : 16, kTimes = fewer(is_medium ? 3 : 12);
  Request request = short_request(temperature);
  request.policy = policy;
  request.max_tokens = r_.config.max_model_len;
  std::vector<double> found;
  for (int time = 0; time < kTimes; ++time) {
    begin(request);  // each time from the start, because rounds become slower as the trunk grows
    pump_.run(kRounds / 4, Exec::kForever);
    const size_t before = pump_.seat(0).sequence.log().entries().size();
    const int64_t start = Trace::now();
    pump_.run(kRounds, Exec::kForever);
    const int64_t took = Trace::now() - start;
    std::vector<RoundEntry> rounds = pump_.seat(0).sequence.log().entries();
    rounds.erase(rounds.begin(), rounds.begin() + static_cast<std::ptrdiff_t>(before));
    if (rounds.empty()) continue;
    const double more = static_cast<double>(took - forwards_of(rounds, policy, costs));
    found.push_back(more * 1e-9 / static_cast<double>(rounds.size()));
  }
  return found.empty() ? 0 : median(std::move(found));
}

Costs Stopwatch::measure(double seconds, float temperature) {
  asked_ = seconds;
  make_trunk(temperature);
  Costs costs;
  const bool drafts = r_.has_draft() && r_.at(0).head < r_.at(0).draft_limit;
  measure_forwards(costs, drafts, seconds);
  measure_rounds(costs, drafts, temperature);
  return costs;
}

void Stopwatch::measure_rounds(Costs& costs, bool drafts, float temperature) {
  const auto beside = [&](const Policy& policy) {
    return std::llround(std::max(0.0, overhead(policy, costs, temperature)) * 1e9);
  };
  Policy policy = plain_policy();
  costs.round = beside(policy);
  if (!drafts) return;
  policy.on_miss = kBurst;
  policy.burst = kShort;
  costs.turns = beside(policy);
  if (r_.config.max_gamma == 0) return;
  policy = plain_policy();
  policy.gamma = std::min(kShort, r_.config.max_gamma);
  policy.branches = 1;
  costs.side_by_side = beside(policy);
}

void Stopwatch::measure_forwards(Costs& costs, bool drafts, double seconds) {
  const std::vector<int> rows = up_to(kMaxRows);
  const std::vector<double> target = time_alone(r_.target, rows, seconds / 2);
  costs.alone.target = costs.overlapped.target = table_of(rows, target);
  if (!drafts) return;
  const std::vector<int> steps = up_to(r_.draft.max_rows);
  const std::vector<double> draft = time_alone(r_.draft, steps, seconds / 4);
  costs.alone.draft = costs.overlapped.draft = table_of(steps, draft);
  const int share = r_.config.target_share();
  const auto slower = [&](LaneUnit& unit, const std::vector<int>& at,
                          const std::vector<double>& alone, int width, LaneUnit& other,
                          int other_rows, int other_width) {
    std::vector<double> found = alone;
    double factor = 1;
    for (size_t i = 0; i < at.size(); ++i) {
      if (at[i] == 1 || at[i] == 8 || at[i] == 32)
        factor = time_beside(unit, at[i], width, other, other_rows, other_width) / alone[i];
      found[i] *= std::max(1.0, factor);
    }
    return table_of(at, found);
  };
  const int most = std::min(16, r_.draft.max_rows);
  costs.overlapped.target =
      slower(r_.target, rows, target, share, r_.draft, most, r_.config.draft_threads);
  costs.overlapped.draft =
      slower(r_.draft, steps, draft, r_.config.draft_threads, r_.target, 8, share);
}

}  // namespace sbrt
