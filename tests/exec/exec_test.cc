// Tests the promises of csrc/exec, on the cpu backend and, where they apply, on the sim backend.
//
//   exec_test SCALE [canary]   runs everything; loops are SCALE per cent of their full length
//   exec_test canary NAME      only the fault NAME of exec/canary.h, in a build that has it
//
// It prints one line "ok NAME" per test. The first failure prints its sentence and ends the program
// with 1. Nothing here is atomic or locked: all order comes from graphs and events, so
// ThreadSanitizer sees a missing wait. The canary leaves one wait out, which must be reported.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/check.h"
#include "exec/canary.h"
#include "exec/exec.h"
#include "exec_ops.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

using namespace sbrt;

constexpr int kTimeLimit = 600;  // time limit in seconds: a faulty program may never end
int scale = 100;                 // length of the loops in per cent
bool canary = false;

int times(int n) { return std::max(1, n * scale / 100); }

// A team of any width must give the results of a team of one. Its members share the work of an op,
// and wait for each other after each op.
void team_results() {
  for (const int64_t n : {1, 3, 64, 1000}) {
    std::vector<double> want;
    for (int width = 1; width <= 4; ++width) {
      Event done("done");
      std::vector<double> a(n), b(n);
      for (int64_t i = 0; i < n; ++i) a[i] = std::sin(static_cast<double>(i));
      Graph graph("team");
      const auto exec = make_cpu_exec();
      const auto stream = exec->stream(4);
      for (int turn = 0; turn < 5; ++turn) {
        graph.add(add_neighbours, Vectors{a.data(), b.data(), n});
        graph.add(shift, Shift{b.data()}, true);
        graph.add(add_neighbours, Vectors{b.data(), a.data(), n});
      }
      for (int i = 0; i < times(50); ++i) stream->launch(graph, width);
      stream->record(done, 1);
      exec->wait(done, 1);
      if (width == 1) want = a;
      check(a == want, "width ", width, " of ", n, " elements gives other numbers than width 1");
    }
  }
}

// Ops that need rows do nothing without rows, and the ops around them run as ever. The number of
// rows changes within the graph, whose last ops need rows, too.
void ops_without_rows() {
  for (int width = 1; width <= 3; ++width) {
    Event done("done");
    int32_t rows = 0;
    uint64_t skipped = 1, kept = 1, skips = 0, keeps = 0, want = 1, turn = 0;
    std::vector<double> a(50, 1), b(50), sum(50, 1), scratch(50);
    Graph graph("rows"), without("no rows"), with("two rows");
    graph.add(fold, Fold{&kept, 31, &keeps}, true);
    const size_t first = graph.nodes().size();
    graph.add(add_neighbours, Vectors{a.data(), b.data(), 50});
    graph.add(add_neighbours, Vectors{b.data(), a.data(), 50});
    graph.add(fold, Fold{&skipped, 37, &skips}, true);
    graph.need_rows(first, &rows);
    without.add(set_rows, SetRows{&rows, 0}, true);
    without.append(graph);
    with.add(set_rows, SetRows{&rows, 2}, true);
    with.append(graph);
    const auto exec = make_cpu_exec();
    const auto stream = exec->stream(3);
    for (int i = 0; i < times(500); ++i) {
      stream->launch(without, width);
      stream->launch(graph, width);
      stream->launch(with, width);
      want = want * 37 + ++turn;
      add_neighbours({sum.data(), scratch.data(), 50}, {});
      add_neighbours({scratch.data(), sum.data(), 50}, {});
    }
    stream->record(done, 1);
    exec->wait(done, 1);
    check(skips == turn && skipped == want, "width ", width, ": ", skips, " launches with rows");
    check(keeps == 3 * turn, "width ", width, ": ", keeps, " launches of the op before");
    check(a == sum, "width ", width, ": other numbers than one member computes");
  }
}

// The width may change from launch to launch, and may exceed the number of members.
void changing_widths() {
  Event done("done");
  uint64_t value = 1, round = 0;
  std::vector<double> a(50, 1), b(50);
  Graph graph("mixed");
  graph.add(add_neighbours, Vectors{a.data(), b.data(), 50});
  graph.add(fold, Fold{&value, 31, &round}, true);
  uint64_t want = 1, turn = 0;
  const auto exec = make_cpu_exec();
  const auto stream = exec->stream(3);
  for (int i = 0; i < times(2000); ++i) {
    stream->launch(graph, 1 + i % 5);
    want = want * 31 + ++turn;
  }
  stream->record(done, 1);
  exec->wait(done, 1);
  check(value == want, "launches of changing width ran out of order");
}

bool raises(Exec& exec, Event& event, int64_t value, int code) {
  try {
    exec.wait(event, value);
  } catch (const Error& e) {
    check(e.what() == sentence("code ", code), "expected code ", code, " but got ", e.what());
    return true;
  }
  return false;
}

// Any member of a team may throw. The host gets the first exception. Work enqueued after it is
// skipped, though its events fire, and the stream is usable afterwards.
void exception_in_a_member() {
  for (int width = 1; width <= 4; ++width)
    for (int rank = -1; rank < width; ++rank) {
      Event done("done");
      uint64_t value = 0, round = 0;
      Graph fails("fails"), counts("counts");
      const auto exec = make_cpu_exec();
      const auto stream = exec->stream(4);
      fails.add(nap, Nap{rank == 0 ? 50 : 0});
      fails.add(throw_code, Throw{rank, 7});
      fails.add(fold, Fold{&value, 1, &round}, true);
      counts.add(fold, Fold{&value, 1, &round}, true);
      for (int i = 1; i <= times(50); ++i) {
        stream->launch(counts, width);
        stream->launch(fails, width);
        stream->launch(counts, width);
        stream->record(done, i);
        check(raises(*exec, done, i, 7), "an exception of rank ", rank, " was lost");
        check(round == static_cast<uint64_t>(i), "what stands behind a failed op ran");
      }
      exec->wait(done, times(50));  // an exception is reported only once
    }
}

// If an op throws, only the op's own graph must end early. Another member of the team may still be
// in the previous graph, asleep because the last op took long. That member must not end the
// previous graph early.
void exception_right_behind_a_slow_op() {
  for (int next_width = 1; next_width <= 3; ++next_width) {
    Event done("done");
    Graph slow("slow"), fails("fails");
    const auto exec = make_cpu_exec();
    const auto stream = exec->stream(3);
    slow.add(nap, Nap{0});
    slow.add(nap, Nap{0});
    slow.add(nap, Nap{200}, true);
    fails.add(throw_code, Throw{0, 5}, true);
    fails.add(nap, Nap{0});
    for (int i = 1; i <= times(200); ++i) {
      stream->launch(slow, 3);
      stream->launch(fails, next_width);
      stream->record(done, i);
      check(raises(*exec, done, i, 5), "an exception was lost");
    }
  }
}

// An exception in one stream must reach the host through an event of another stream.
void exception_across_streams() {
  Event ready("ready"), done("done");
  uint64_t value = 0, round = 0;
  Graph fails("fails"), counts("counts");
  const auto exec = make_cpu_exec();
  const auto one = exec->stream(2), two = exec->stream(2);
  fails.add(throw_code, Throw{0, 9}, true);
  counts.add(fold, Fold{&value, 1, &round}, true);
  for (int i = 1; i <= times(500); ++i) {
    two->wait(ready, i);
    two->launch(counts, 2);
    two->record(done, i);
    one->launch(fails, 2);
    one->record(ready, i);
    check(raises(*exec, done, i, 9), "an exception did not reach an event of another stream");
  }
  check(round == 0, "an op ran that waited for one that failed");
}

// Two streams pass one value back and forth. After a record, all earlier work must be visible.
void order_across_streams(const std::function<std::unique_ptr<Exec>()>& make) {
  Event ping("ping"), pong("pong");
  uint64_t value = 1, rounds[2] = {0, 0}, want = 1;
  Graph first("first"), second("second");
  const auto exec = make();
  const auto one = exec->stream(2), two = exec->stream(2);
  first.add(fold, Fold{&value, 31, &rounds[0]}, true);
  second.add(fold, Fold{&value, 17, &rounds[1]}, true);
  const int n = times(10'000);
  for (int i = 1; i <= n; ++i) {
    one->wait(pong, i - 1);
    one->launch(first, 1 + i % 2);
    one->record(ping, i);
    if (!canary) two->wait(ping, i);
    two->launch(second, 2 - i % 2);
    two->record(pong, i);
    want = (want * 31 + static_cast<uint64_t>(i)) * 17 + static_cast<uint64_t>(i);
    if (i % 100 == 0) exec->wait(pong, i);
  }
  exec->wait(pong, n);
  check(value == want, "two streams did not take turns");
}

// The host enqueues far more commands than a queue holds. It must wait, and nothing may be lost or
// reordered.
void back_pressure() {
  Event done("done");
  uint64_t value = 1, round = 0, want = 1;
  Graph graph("slow");
  const auto exec = make_cpu_exec();
  const auto stream = exec->stream(1);
  graph.add(nap, Nap{5});
  graph.add(fold, Fold{&value, 31, &round}, true);
  const int n = std::max(1000, times(4000));
  for (int i = 1; i <= n; ++i) {
    stream->launch(graph, 1);
    want = want * 31 + static_cast<uint64_t>(i);
  }
  stream->record(done, 1);
  exec->wait(done, 1);
  check(value == want, "launches under back-pressure ran out of order");
}

void ten_thousand_tiny_graphs(const std::function<std::unique_ptr<Exec>()>& make) {
  uint64_t value = 1, round = 0, want = 1;
  std::vector<Graph> graphs(static_cast<size_t>(times(10'000)), Graph("tiny"));
  for (Graph& graph : graphs) graph.add(fold, Fold{&value, 31, &round}, true);
  Event done("done");
  const auto exec = make();
  const auto stream = exec->stream(2);
  for (size_t i = 0; i < graphs.size(); ++i) {
    stream->launch(graphs[i], 1 + static_cast<int>(i % 2));
    if (i % 100 == 99) stream->record(done, static_cast<int64_t>(i));
    want = want * 31 + i + 1;
  }
  stream->record(done, static_cast<int64_t>(graphs.size()));
  exec->wait(done, static_cast<int64_t>(graphs.size()));
  check(value == want, "tiny graphs ran out of order");
}

// The destructor of a stream must first run the enqueued work.
void destruction_drains() {
  for (int i = 0; i < times(50); ++i) {
    uint64_t value = 1, round = 0;
    Graph graph("last");
    graph.add(fold, Fold{&value, 31, &round}, true);
    {
      const auto exec = make_cpu_exec();
      const auto stream = exec->stream(3);
      for (int n = 0; n < 50; ++n) stream->launch(graph, 1 + n % 3);
    }
    check(round == 50, "a stream went with ", 50 - round, " launches undone");
  }
}

// All members must compute in the same floating-point mode, whatever mode the host has.
void float_environment() {
#if defined(__x86_64__)
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);  // flush denormals to zero, as some libraries do to their callers
  {
    Event done("done");
    const double tiny = 0x1p-1030;
    std::vector<double> out(4, 0);
    Graph graph("denormal");
    const auto exec = make_cpu_exec();
    const auto stream = exec->stream(4);
    graph.add(halve, Denormal{&tiny, out.data()});
    stream->launch(graph, 4);
    stream->record(done, 1);
    exec->wait(done, 1);
    _mm_setcsr(before);
    for (const double half : out) check(half == 0x1p-1031, "a worker flushes denormals");
  }
#endif
}

// A stream's trace must have its events in order, with names, and must mark waits.
void trace() {
  Event ready("ready"), done("done");
  Graph graph("work");
  const auto exec = make_cpu_exec();
  const auto one = exec->stream(1), two = exec->stream(1);
  graph.add(nap, Nap{2000});
  const int64_t begin = Trace::now();
  two->wait(ready, 1);
  two->launch(graph, 1);
  two->record(done, 1);
  one->launch(graph, 1);
  one->record(ready, 1);
  exec->wait(done, 1);
  const std::vector<TraceEvent> first = one->trace().events(begin);
  const std::vector<TraceEvent> second = two->trace().events(begin);
  check(first.size() == 1 && second.size() == 2, "trace: expected 1 and 2 events");
  const TraceEvent &work = first[0], &wait = second[0], &next = second[1];
  check(std::string(work.name) == "work" && !work.wait, "trace: expected work");
  check(std::string(wait.name) == "ready" && wait.wait, "trace: expected a wait for ready");
  check(std::string(next.name) == "work" && !next.wait, "trace: expected work");
  check(work.end - work.begin >= 2'000'000, "trace: work took less than it slept");
  check(wait.end >= work.end && next.begin >= wait.end, "trace: work began before its wait ended");
  check(one->trace().events(Trace::now()).empty(), "trace: an event of the future");
}

// The sim backend must run as far as events allow, and report an event that will never fire.
void sim_backend() {
  Event ready("ready"), done("done");
  Graph fails("fails");
  const auto exec = make_sim_exec();
  const auto one = exec->stream(1), two = exec->stream(1);
  fails.add(throw_code, Throw{0, 3}, true);
  two->wait(ready, 1);
  two->record(done, 1);
  try {
    exec->wait(done, 1);
    check(false, "a wait for what nobody records came back");
  } catch (const Error& e) {
    check(std::string(e.what()).find("done") != std::string::npos, "expected done in: ", e.what());
  }
  one->launch(fails, 1);
  one->record(ready, 1);
  check(raises(*exec, done, 1, 3), "sim: an exception was lost");
  exec->wait(done, 1);
}

void check_virtual_trace(const std::vector<TraceEvent>& events,
                         const std::vector<TraceEvent>& later) {
  check_equal("events of a stream", size_t{4}, events.size());
  const TraceEvent& wait = events[2];
  check(wait.wait && wait.begin == 25 && wait.end == 410, "the wait was from ", wait.begin, " to ",
        wait.end);
  check_equal("events behind the host's pause", size_t{1}, later.size());
  check_equal("the launch behind it", int64_t{500}, later[0].begin);
}

// In virtual time a launch takes the time that a table gives for its rows. The rows are counted
// when the launch's marked op runs. Two lanes in parallel take the time of the longer one. If one
// lane waits for the other, the times add up. Nothing begins before it is enqueued.
void virtual_time() {
  constexpr int64_t table[] = {0, 10, 25, 400};
  const int64_t* ns = table;
  int32_t rows = 1, others = 1;
  Event left("left"), right("right"), done("done");
  Graph two_rows("two rows"), three_rows("three rows"), nothing("nothing");
  two_rows.add(set_rows, SetRows{&rows, 2}, true);
  two_rows.cost_by(&rows, &ns);
  two_rows.add(set_rows, SetRows{&rows, 3}, true);
  three_rows.cost_by(&others, &ns);
  three_rows.add(set_rows, SetRows{&others, 3}, true);
  nothing.add(set_rows, SetRows{&rows, 1}, true);
  const auto exec = make_virtual_exec();
  const auto one = exec->stream(1), two = exec->stream(1);
  one->launch(two_rows, 1);  // from 0 ns to 25 ns
  one->launch(nothing, 1);
  one->record(left, 1);
  two->launch(three_rows, 1);  // from 0 ns to 10 ns: it has 1 row; its op sets 3 rows
  two->launch(three_rows, 1);  // from 10 ns to 410 ns
  two->record(right, 1);
  one->wait(right, 1);  // from 25 ns to 410 ns
  one->launch(two_rows, 1);
  one->record(done, 1);
  check_equal("host before", int64_t{0}, exec->now());
  exec->wait(left, 1);
  check_equal("host at left", int64_t{25}, exec->now());
  exec->wait(done, 1);
  check_equal("host at done", int64_t{435}, exec->now());
  exec->spend(65);
  two->launch(three_rows, 1);
  two->record(right, 2);
  exec->wait(right, 2);
  check_equal("host at the end", int64_t{900}, exec->now());
  check_virtual_trace(one->trace().events(0), two->trace().events(500));
}

void run(const char* name, const std::function<void()>& test) {
  test();
  std::printf("ok %s\n", name);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
#if defined(SBRT_CANARY)
  if (argc > 2 && std::string(argv[1]) == "canary") {
    sbrt::plant_canary(argv[2]);
    return 0;
  }
#endif
  if (argc > 1) scale = std::max(1, std::atoi(argv[1]));
  canary = argc > 2 && std::string(argv[2]) == "canary";
  alarm(kTimeLimit);
  try {
    run("order across streams", [] { order_across_streams(make_cpu_exec); });
    run("team results", team_results);
    run("ops without rows", ops_without_rows);
    run("changing widths", changing_widths);
    run("exception in a member", exception_in_a_member);
    run("exception right behind a slow op", exception_right_behind_a_slow_op);
    run("exception across streams", exception_across_streams);
    run("back-pressure", back_pressure);
    run("ten thousand tiny graphs", [] { ten_thousand_tiny_graphs(make_cpu_exec); });
    run("destruction drains", destruction_drains);
    run("float environment", float_environment);
    run("trace", trace);
    run("order across streams, sim", [] { order_across_streams(make_sim_exec); });
    run("ten thousand tiny graphs, sim", [] { ten_thousand_tiny_graphs(make_sim_exec); });
    run("sim backend", sim_backend);
    run("virtual time", virtual_time);
  } catch (const std::exception& e) {
    std::printf("FAILED: %s\n", e.what());
    return 1;
  }
  return 0;
}
