// Tests trace and launches of the cuda backend, on a CUDA runtime without a device (fake_cuda.h).
//
//   trace_main PART   slices, late, quiet, held, far, clock, broken, profile, naps, fused or played
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "core/check.h"
#include "exec/cuda/call.h"
#include "exec/exec.h"
#include "exec/fused.h"
#include "fake_cuda.h"
#include "graphs.h"
#include "parts.h"

namespace sbrt {
namespace {

constexpr int64_t kUs = 1000;
constexpr int64_t kVerify = 1000 * kUs, kSelect = 50 * kUs, kStep = 500 * kUs;
constexpr int kSteps = 3;

// Two lanes, and rounds whose target waits for a burst that is enqueued after it.
struct Scene {
  std::unique_ptr<Exec> exec = make_cuda_exec(0);
  Graph verify = graph_of("verify", kVerify), select = graph_of("select", kSelect);
  Graph step = graph_of("step", kStep);
  Event verify_done{"verify_done"}, draft_ready{"draft_ready"};
  std::unique_ptr<Stream> target = exec->stream(1, {"target", false, true});
  std::unique_ptr<Stream> draft = exec->stream(1, {"draft", true, true});
  int64_t rounds = 0;

  Scene() {
    for (const Graph* graph : {&verify, &select}) target->prepare(*graph);
    draft->prepare(step);
  }
  // late: ns between the target's commands and the draft's commands.
  void enqueue(int64_t late = 0) {
    const int64_t r = ++rounds;
    target->launch(verify, 1);
    target->wait(draft_ready, r);
    target->launch(select, 1);
    target->record(verify_done, r);
    fake::now += late;
    draft->wait(verify_done, r - 1);
    for (int i = 0; i < kSteps; ++i) draft->launch(step, 1);
    draft->record(draft_ready, r);
  }
  void round(int64_t late = 0) {
    fake::hold();  // the host sees no record before all work is enqueued
    enqueue(late);
    fake::let_go();
    exec->wait(verify_done, rounds);
  }
};

void expect(const std::vector<TraceEvent>& found, const std::vector<TraceEvent>& wanted,
            int64_t origin) {
  check_equal("trace: slices", wanted.size(), found.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    const TraceEvent &a = wanted[i], &b = found[i];
    check(std::string(a.name) == b.name && a.wait == b.wait && a.begin == b.begin - origin &&
              a.end == b.end - origin,
          "trace: slice ", i, ": expected ", a.name, " ", a.begin, " ", a.end, ", got ", b.name,
          " ", b.begin - origin, " ", b.end - origin);
  }
}

void show_slices() {
  Scene scene;
  const int64_t before = Trace::now(), device = fake::now;
  scene.exec->keep_trace(true);
  const int64_t after = Trace::now();
  fake::now += 20 * kUs;
  scene.round();
  const int64_t burst = kSteps * kStep;
  const std::vector<TraceEvent> target = scene.target->trace().events(0);
  const int64_t origin = target.at(0).begin;
  expect(target,
         {{"verify", 0, kVerify, false},
          {"draft_ready", kVerify, burst, true},
          {"select", burst, burst + kSelect, false}},
         origin);
  expect(scene.draft->trace().events(0),
         {{"verify_done", 0, 0, true},
          {"step", 0, kStep, false},
          {"step", kStep, 2 * kStep, false},
          {"step", 2 * kStep, 3 * kStep, false}},
         origin);
  const int64_t known = origin - (fake::now - device);
  check(before <= known && known <= after, "trace: expected the host's clock");
  fake::now += 1'000'000 * kUs;
  scene.round();  // before this round the device was idle
  const int64_t off = scene.target->trace().events(0).at(3).begin - known - (fake::now - device);
  check(std::abs(off) <= 62, "trace: the second round is off by ", off, " ns");
}

// The host holds back a wait for an event that is not recorded yet. In the trace this wait begins
// where the stream's last work ends.
void hold_wait() {
  Scene scene;
  scene.exec->keep_trace(true);
  constexpr int64_t kLate = 5 * kVerify;
  scene.round(kLate);
  const std::vector<TraceEvent> found = scene.target->trace().events(0);
  const int64_t end = kLate + kSteps * kStep;
  expect(found,
         {{"verify", 0, kVerify, false},
          {"draft_ready", kVerify, end, true},
          {"select", end, end + kSelect, false}},
         found.at(0).begin);
}

void stay_quiet() {
  Scene scene;
  scene.round();
  const fake::Counts before = fake::counts;
  for (int i = 0; i < 200; ++i) scene.round();
  check_equal("untraced: timed records", before.records, fake::counts.records);
  check_equal("untraced: slices", size_t{0}, scene.target->trace().events(0).size());
  scene.exec->keep_trace(true);
  const fake::Counts traced = fake::counts;
  check(traced.events > before.events, "traced: expected events");
  for (int i = 0; i < 200; ++i) scene.round();
  check_equal("traced: events made in rounds", traced.events, fake::counts.events);
  check_equal("traced: waits of the host", traced.waits, fake::counts.waits);
  check_equal("traced: slices", size_t{600}, scene.target->trace().events(0).size());
  scene.exec->keep_trace(false);
  const int records = fake::counts.records;
  check_equal("no more: events left", before.events, fake::counts.events);
  for (int i = 0; i < 200; ++i) scene.round();
  check_equal("no more: timed records", records, fake::counts.records);
  check_equal("no more: slices", size_t{600}, scene.target->trace().events(0).size());
}

// A slice must be in the trace once it is over. The host must not wait for slices in flight.
void hold_back() {
  Scene scene;
  scene.exec->keep_trace(true);
  const int waits = fake::counts.waits;
  fake::hold();
  for (int i = 0; i < 2; ++i) scene.enqueue();
  check(!scene.exec->reach(scene.verify_done, 1, Trace::now()), "held: expected no end");
  check_equal("held: slices", size_t{0}, scene.target->trace().events(0).size());
  check_equal("held: waits of the host", waits, fake::counts.waits);
  fake::let_go();
  check_equal("let go: slices", size_t{6}, scene.target->trace().events(0).size());
  check_equal("let go: of the draft", size_t{8}, scene.draft->trace().events(0).size());
  fake::hold();
  for (int i = 0; i < 1000; ++i) scene.enqueue();  // more rounds than the trace has room for
  fake::let_go();
  const size_t room = scene.target->trace().events(0).size();
  check(room < 1000, "room: expected fewer slices than there were, got ", room);
  scene.round();
  check_equal("room: slices of the next round", room + 3, scene.target->trace().events(0).size());
  check_equal("room: waits of the host", waits, fake::counts.waits);
}

// A sequence takes an hour. Times must stay exact, although CUDA gives elapsed times as floats,
// which get coarser as they grow.
void go_far() {
  Scene scene;
  scene.exec->keep_trace(true);
  scene.round();
  const int64_t device = fake::now, origin = scene.target->trace().events(0).at(0).begin;
  constexpr int64_t kApart = 700'000 * kUs;
  constexpr int kRounds = 5000;
  for (int i = 0; i < kRounds; ++i) {
    fake::now += kApart;
    scene.round();
  }
  const std::vector<TraceEvent> events = scene.target->trace().events(0);
  // CUDA's elapsed time is a float. Below 2048 ms its rounding error is at most 61 ns. The error
  // occurs at each end of a slice, and at each step in between.
  for (const TraceEvent& e : events) {
    const int64_t lasts =
        e.wait ? kSteps * kStep - kVerify : (std::string(e.name) == "verify" ? kVerify : kSelect);
    check(std::abs(e.end - e.begin - lasts) <= 124, "far: ", e.name, " lasts ", e.end - e.begin);
  }
  const int64_t off = events.at(events.size() - 3).begin - origin - (fake::now - device);
  check(std::abs(off) <= int64_t{62} * kRounds, "far: off by ", off, " ns");
}

// The clocks of host and device drift apart, so they are compared again before each sequence.
void set_clock() {
  Scene scene;
  const Cells<int64_t> cell = scene.exec->cells<int64_t>(1, Where::device);
  scene.exec->keep_trace(true);
  scene.round();
  fake::now += 100'000'000 * kUs;
  const int64_t before = Trace::now();
  scene.exec->upload(cell, 0, 1);
  const int64_t after = Trace::now();
  scene.round();
  const int64_t begin = scene.target->trace().events(0).at(3).begin;
  check(before <= begin && begin <= after, "clock: off by ", begin - after, " ns");
}

void break_device() {
  Scene scene;
  scene.exec->keep_trace(true);
  scene.enqueue();
  fake::broken = true;
  std::string said;
  try {
    scene.exec->wait(scene.verify_done, 1);
  } catch (const Error& error) {
    said = error.what();
  }
  check(said.find("timing.h:") == 0, "broken: expected a call's place, got '", said, "'");
}

void profile() {
  Scene scene;
  scene.exec->profile(true);
  check_equal("profilers started", 1, fake::counts.captures);
  scene.round();
  scene.exec->profile(false);
  check_equal("profilers left", 0, fake::counts.captures);
}

// The host must not sleep for an event that is reached. It must remember the waiting times of each
// event separately.
void nap_rarely() {
  Scene scene;
  const auto wait = [&](Event& event, int64_t value, int naps) {
    fake::let_go_after(naps);
    scene.enqueue();
    scene.exec->wait(event, value);
  };
  for (int i = 0; i < 4; ++i) wait(scene.verify_done, scene.rounds + 1, 20);
  const int napped = fake::counts.naps;
  check(napped >= 80, "naps: expected 20 a wait, got ", napped);
  for (int i = 0; i < 14; ++i) scene.exec->wait(scene.verify_done, scene.rounds);
  check_equal("naps: for an event that is reached", napped, fake::counts.naps);

  fake::counts.longest_nap = 0;
  wait(scene.draft_ready, scene.rounds + 1, 20);
  check_equal("naps: the first for another event, ns", int64_t{20'000}, fake::counts.longest_nap);
  wait(scene.verify_done, scene.rounds + 1, 1);
  check(fake::counts.longest_nap > 100'000, "naps: expected a long one for the first event, got ",
        fake::counts.longest_nap, " ns");

  fake::counts.longest_nap = 0;
  fake::hold();
  scene.enqueue();
  constexpr int64_t kSpan = 50'000;
  check(!scene.exec->reach(scene.verify_done, scene.rounds, Trace::now() + kSpan),
        "naps: expected no end");
  check(fake::counts.longest_nap <= kSpan, "naps: expected none beyond the caller's time, got ",
        fake::counts.longest_nap, " ns");
  fake::let_go();
}

// A captured op with two graphs of one kernel each; `at` is the index of the picked graph.
struct Choice {
  Captured captured;
  int at = 0;

  Choice(const int64_t& first, const int64_t& second) {
    for (const int64_t* ns : {&first, &second}) {
      cudaGraph_t graph = nullptr;
      cudaGraphNode_t node = nullptr;
      cudaKernelNodeParams kernel{};
      kernel.func = const_cast<int64_t*>(ns);
      checked(cudaGraphCreate(&graph, 0), "cudaGraphCreate");
      checked(cudaGraphAddKernelNode(&node, graph, nullptr, 0, &kernel), "cudaGraphAddKernelNode");
      captured.graphs.push_back(graph);
    }
    captured.pick = [](const void* asked) { return *static_cast<const int*>(asked); };
    captured.asked = &at;
  }
  ~Choice() {
    for (void* graph : captured.graphs)
      static_cast<void>(cudaGraphDestroy(static_cast<cudaGraph_t>(graph)));
  }
  Choice(const Choice&) = delete;
};

// Returns the text of the error that the host has not seen yet; "" if there is none.
std::string what_broke(Exec& exec) {
  try {
    exec.rethrow();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// A stream keeps at most kMostFused fused graphs. If one more is fused, the stream drops the oldest
// one. A launch of the dropped graph is an error.
void drop_the_oldest(Exec& exec, Stream& stream, const Graph& burst, int parts) {
  std::vector<std::unique_ptr<Graph>> more;
  for (int i = 0; i < Stream::kMostFused; ++i) {
    more.push_back(std::make_unique<Graph>("burst"));
    more.back()->append(burst);
    stream.fuse(*more.back());
  }
  check(!stream.is_fused(burst) && stream.is_fused(*more[0]), "fused: expected the oldest gone");
  check_equal("fused: at most", parts + static_cast<int>(more.size()), fake::counts.graphs);
  stream.launch(burst, 1);
  const std::string said = what_broke(exec);
  check(said == "graph burst: expected a prepared one", "fused: got '", said, "'");
}

struct Timed {
  Exec& exec;
  Stream& stream;
  Event done{"done"};
  int64_t turns = 0;

  // Launches a graph `times` times. Returns (ns by the trace, number of CUDA launches).
  std::pair<int64_t, int> launch(const Graph& graph, int times) {
    const fake::Counts before = fake::counts;
    exec.keep_trace(true);
    for (int i = 0; i < times; ++i) stream.launch(graph, 1);
    stream.record(done, ++turns);
    exec.wait(done, turns);
    const std::vector<TraceEvent> found = stream.trace().events(0);
    check_equal("fused: slices", static_cast<size_t>(times), found.size());
    return {found.back().end - found.front().begin, fake::counts.launches - before.launches};
  }
};

// A burst must be one launch, as long as its captured ops pick the graphs that they picked when it
// was fused.
void fuse() {
  static constexpr int64_t kShort = 200 * kUs, kLong = 700 * kUs;
  Choice forward(kShort, kLong);
  Graph step("step"), burst("burst");
  step.add(nothing, 0).on_device(forward.captured);
  step.append(graph_of("extend", kSelect));
  burst.append(graph_of("plan", kStep)).append(step, kSteps);
  const auto exec = make_cuda_exec(0);
  const auto stream = exec->stream(1);
  Timed timed{*exec, *stream};
  const int none = fake::counts.graphs;
  stream->prepare(step);
  const int parts = fake::counts.graphs - none;
  check_equal("step: graphs", 3, parts);
  for (const int at : {0, 1, 0}) {
    forward.at = at;
    const bool is_known = timed.turns == 4;  // this turn picks the same graph as the first turn
    check(stream->is_fused(burst) == is_known, "fused: turn ", timed.turns);
    stream->fuse(burst);
    stream->fuse(burst);  // no effect: fused already
    const auto [by_parts, launches] = timed.launch(step, kSteps);
    check_equal("parts: launches", 2 * kSteps, launches);
    const auto [whole, once] = timed.launch(burst, 1);
    check_equal("fused: launches", 1, once);
    check_equal("fused: ns", kStep + by_parts, whole);
    check_equal("fused: ns of steps", kSteps * ((at ? kLong : kShort) + kSelect), by_parts);
  }
  check_equal("fused: graphs", none + parts + 2, fake::counts.graphs);
  drop_the_oldest(*exec, *stream, burst, none + parts);
}

struct Player {
  int turns = 0;
  void* stream = nullptr;
};

// Returns a captured op that calls the function of players[at] instead of a graph. The third call
// of a player throws.
Captured players_at(Player (&players)[2], const int& at) {
  Captured calls{{&players[0], &players[1]}};
  calls.pick = [](const void* asked) { return *static_cast<const int*>(asked); };
  calls.asked = &at;
  calls.play = [](void* player, void* stream) {
    Player& p = *static_cast<Player*>(player);
    check(++p.turns < 3, "lane: enough");
    p.stream = stream;
  };
  return calls;
}

// If a captured op has players and no graphs, a launch must call the picked player with the stream.
// Such a graph must not be fused.
void play() {
  Player players[2];
  int at = 0;
  const Captured calls = players_at(players, at);
  Graph step("step");
  step.add(nothing, 0).on_device(calls);
  step.append(graph_of("extend", kSelect));
  const auto exec = make_cuda_exec(0);
  const auto stream = exec->stream(1);
  const int none = fake::counts.graphs;
  stream->prepare(step);
  check_equal("played: graphs", none + 1, fake::counts.graphs);
  stream->fuse(step);
  check(!stream->is_fused(step), "played: expected nothing fused");
  Event done("done");
  for (int turn = 1; turn <= 3; ++turn) {
    at = turn == 2;
    stream->launch(step, 1);
    stream->record(done, turn);
    exec->wait(done, turn);
  }
  check(players[0].turns == 2 && players[1].turns == 1, "played: expected what was picked");
  check(players[1].stream == stream->handle(), "played: expected the lane's stream");
  at = 0;
  stream->launch(step, 1);
  const std::string said = what_broke(*exec);
  check(said == "lane: enough", "played: got '", said, "'");
}

}  // namespace
}  // namespace sbrt

int main(int argc, char** argv) {
  return sbrt::run_part({{"slices", sbrt::show_slices},
                         {"late", sbrt::hold_wait},
                         {"quiet", sbrt::stay_quiet},
                         {"held", sbrt::hold_back},
                         {"far", sbrt::go_far},
                         {"clock", sbrt::set_clock},
                         {"broken", sbrt::break_device},
                         {"profile", sbrt::profile},
                         {"naps", sbrt::nap_rarely},
                         {"fused", sbrt::fuse},
                         {"played", sbrt::play}},
                        argc, argv);
}
