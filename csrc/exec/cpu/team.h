// A team of threads that runs one graph at a time. The calling thread is rank 0, and helper threads
// are the other ranks.
#pragma once

#include <atomic>
#include <thread>
#include <vector>

#include "exec/cpu/cores.h"
#include "exec/exec.h"
#include "exec/failure.h"

namespace sbrt {

class Team {
 public:
  Team(int threads, TeamCores cores, Failure& failure);
  ~Team();
  Team(const Team&) = delete;

  // Runs `graph` with `width` members, and returns when all of them are done. If ops
  // throw, the Failure object keeps the first exception, and `run` does not throw it.
  void run(const Graph& graph, int width);
  // Moves the calling thread to the core of rank 0. Called by the thread that will call run().
  void take_core() const { cores_.take(0, static_cast<int>(members_.size())); }

 private:
  static constexpr int kWidthBits = 12;
  static constexpr uint32_t kSerials = (1u << (32 - kWidthBits)) - 1;
  static constexpr uint32_t kStop = 0xffffffffu;  // no job has this value, whatever its width

  void help(int rank);
  void work(const Graph& graph, int rank, int width, uint32_t job);
  void mark_failed(uint32_t job, int op);
  bool has_failed(uint32_t job, int op) const;
  void take_along(int width);
  void meet(int rank, int width);

  // The number of barriers at which a member has arrived. Each count has its own cache line, so
  // that a barrier of two members takes only two transfers of a line.
  struct alignas(64) Member {
    std::atomic<uint32_t> arrived{0};
  };

  Failure& failure_;
  const TeamCores cores_;
  std::vector<Member> members_;
  std::vector<std::thread> helpers_;
  const Graph* graph_ = nullptr;
  uint32_t serial_ = 0;
  // Serial number of the job << 32 | first op that threw.
  std::atomic<uint64_t> failed_at_{~uint64_t{0}};
  alignas(64) std::atomic<uint32_t> job_{0};
};

// Sets the floating-point mode (rounding, denormals) of the calling thread to that of all threads
// that compute. A new thread could inherit another mode.
void set_float_environment();

}  // namespace sbrt
