#include "exec/cpu/team.h"

#include <algorithm>

#include "exec/cpu/pause.h"

namespace sbrt {

void set_float_environment() {
#if defined(__x86_64__)
  _mm_setcsr(0x1f80);  // round to nearest, denormals kept, exceptions masked
#endif
}

Team::Team(int threads, Failure& failure) : failure_(failure) {
  for (int rank = 1; rank < threads; ++rank) helpers_.emplace_back([this, rank] { help(rank); });
}

Team::~Team() {
  job_.store(kStop, std::memory_order_release);
  job_.notify_all();
  for (auto& helper : helpers_) helper.join();
}

void Team::run(const Graph& graph, int width) {
  width = std::clamp(width, 1, static_cast<int>(helpers_.size()) + 1);
  if (width > 1) {
    graph_ = &graph;
    // Width travels in the word itself: only members look further, and the job cannot end without
    // them, so nobody ever reads another job's fields.
    const uint32_t serial = (job_.load(std::memory_order_relaxed) >> kWidthBits) + 1;
    job_.store(serial << kWidthBits | static_cast<uint32_t>(width), std::memory_order_release);
    job_.notify_all();
  }
  work(graph, 0, width);
}

void Team::help(int rank) {
  set_float_environment();
  for (uint32_t seen = 0;;) {
    seen = wait_until(job_, [seen](uint32_t job) { return job != seen; });
    if (seen == kStop) return;
    const int width = static_cast<int>(seen & ((1u << kWidthBits) - 1));
    if (rank < width) work(*graph_, rank, width);
  }
}

void Team::work(const Graph& graph, int rank, int width) {
  const auto& nodes = graph.nodes();
  for (int i = 0; i < static_cast<int>(nodes.size()); ++i) {
    const Graph::Node& node = nodes[i];
    if (!node.single || rank == 0) {
      try {
        node.call(node, {rank, node.single ? 1 : width});
      } catch (...) {
        failure_.raise(std::current_exception());
        int first = failed_at_.load(std::memory_order_relaxed);
        while (i < first && !failed_at_.compare_exchange_weak(first, i)) {
        }
      }
    }
    meet(width);
    // An op that threw ends the graph for everybody at the same place; a later op's failure, seen
    // early by a slow member, does not.
    if (failed_at_.load(std::memory_order_relaxed) <= i) [[unlikely]] {
      meet(width);
      if (rank == 0) failed_at_.store(kNever, std::memory_order_relaxed);
      return;
    }
  }
}

void Team::meet(int width) {
  if (width == 1) return;
  const uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(width)) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.fetch_add(1, std::memory_order_release);
    phase_.notify_all();
  } else {
    wait_until(phase_, [phase](uint32_t p) { return p != phase; });
  }
}

}  // namespace sbrt
