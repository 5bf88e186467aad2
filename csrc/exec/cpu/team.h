// A team of cores that runs one graph at a time: the caller is rank 0, helpers are threads.
#pragma once

#include <atomic>
#include <thread>
#include <vector>

#include "exec/exec.h"
#include "exec/failure.h"

namespace sbrt {

class Team {
 public:
  Team(int threads, Failure& failure);
  ~Team();
  Team(const Team&) = delete;

  // Runs `graph` with `width` members; returns when all of them are done. Exceptions go to Failure.
  void run(const Graph& graph, int width);

 private:
  static constexpr int kNever = 1 << 30;
  static constexpr int kWidthBits = 12;
  static constexpr uint32_t kStop = 0xffffffffu;

  void help(int rank);
  void work(const Graph& graph, int rank, int width);
  void meet(int width);

  Failure& failure_;
  std::vector<std::thread> helpers_;
  const Graph* graph_ = nullptr;
  std::atomic<int> failed_at_{kNever};  // first op that threw
  alignas(64) std::atomic<uint32_t> job_{0};
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
};

// Every thread that computes starts from the same floating-point state, whatever it inherited.
void set_float_environment();

}  // namespace sbrt
