// Tests teams of the cpu backend whose members are pinned to cores. Members may share a core, so
// the test needs only one.
#include <sched.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "core/check.h"
#include "exec/exec.h"

namespace {

using namespace sbrt;

struct Found {
  std::vector<int>* cores;  // [rank] the core of each member; -1 if it may use several
};

std::vector<int> cores_of_thread() {
  cpu_set_t allowed;
  sched_getaffinity(0, sizeof allowed, &allowed);
  std::vector<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &allowed)) cores.push_back(core);
  return cores;
}

void find(const Found& a, Worker worker) {
  const std::vector<int> cores = cores_of_thread();
  (*a.cores)[worker.rank] = cores.size() == 1 ? cores[0] : -1;
}

bool has_touched(Stream& stream) {
  for (const TraceEvent& event : stream.trace().events(0))
    if (std::string(event.name) == "touch") return true;
  return false;
}

// Each member must run on its own core. A pinned team must be the first to touch the memory of its
// place.
void check_team() {
  const std::vector<int> allowed = cores_of_thread(), cores{allowed.front(), allowed.back()};
  const auto exec = make_cpu_exec();
  const auto free = exec->stream(2, {.name = "free"}),
             pinned = exec->stream(2, {.name = "pinned", .place = 1, .cores = cores});
  std::vector<int> found(2, -1);
  Graph graph("find");
  graph.add(find, Found{&found});
  Event done("done");
  pinned->launch(graph, 2);
  pinned->record(done, 1);
  exec->wait(done, 1);
  check(found == cores, "pinned: expected cores ", cores[0], " and ", cores[1], ", got ", found[0],
        " and ", found[1]);
  check(cores_of_thread() == allowed, "pinned: expected the host's thread to keep its cores");
  exec->cells<int64_t>(1000, Where::device);
  exec->cells<int64_t>(1000, Where::pinned, 1);
  check(!has_touched(*free) && !has_touched(*pinned), "pinned: expected other memory untouched");
  const auto cells = exec->cells<int64_t>(1000, Where::device, 1);
  check(has_touched(*pinned) && !has_touched(*free), "pinned: expected its memory touched");
  for (int i = 0; i < 1000; ++i) check_equal("pinned: new memory", 0, cells.host()[i]);
}

void expect_refused(const std::vector<int>& cores, int threads, const std::string& said) {
  const auto exec = make_cpu_exec();
  std::string got = "nothing";
  try {
    exec->stream(threads, {.cores = cores});
  } catch (const InvalidInput& error) {
    got = error.what();
  }
  check(got.find(said) == 0, "pinned: expected '", said, "', got '", got, "'");
}

void check_refusals() {
  const int core = cores_of_thread().front();
  expect_refused({core}, 2, "exec: cores of a team: expected 1 but got 2");
  expect_refused({1 << 20}, 1, "cores: expected those that this process may use, got 1048576");
  expect_refused({-1}, 1, "cores: expected those that this process may use, got -1");
}

}  // namespace

int main() {
  try {
    check_team();
    check_refusals();
  } catch (const std::exception& e) {
    std::printf("FAILED: %s\n", e.what());
    return 1;
  }
  std::printf("ok\n");
  return 0;
}
