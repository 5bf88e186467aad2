#include "exec/cpu/team.h"

#include <algorithm>
#include <utility>

#include "exec/cpu/pause.h"

namespace sbrt {

void set_float_environment() {
#if defined(__x86_64__)
  _mm_setcsr(0x1f80);  // sets round to nearest, denormals kept, exceptions masked
#endif
}

Team::Team(int threads, TeamCores cores, Failure& failure)
    : failure_(failure), cores_(std::move(cores)), members_(threads) {
  for (int rank = 1; rank < threads; ++rank)
    helpers_.emplace_back([this, rank, threads] {
      cores_.take(rank, threads);
      help(rank);
    });
}

Team::~Team() {
  publish(job_, kStop);
  for (auto& helper : helpers_) helper.join();
}

void Team::run(const Graph& graph, int width) {
  width = std::clamp(width, 1, static_cast<int>(helpers_.size()) + 1);
  if (width > 1) {
    graph_ = &graph;
    take_along(width);
    // The word job_ contains the width. So a helper that is no member of the job reads no other
    // field. The job cannot end without its members, so no member reads the fields of a later job.
    ++serial_;
    publish(job_, serial_ << kWidthBits | static_cast<uint32_t>(width));
  }
  work(graph, 0, width, serial_ & kSerials);
}

void Team::help(int rank) {
  set_float_environment();
  for (uint32_t seen = 0;;) {
    seen = wait_until(job_, [seen](uint32_t job) { return job != seen; });
    if (seen == kStop) return;
    const int width = static_cast<int>(seen & ((1u << kWidthBits) - 1));
    if (rank < width) work(*graph_, rank, width, seen >> kWidthBits);
  }
}

void Team::work(const Graph& graph, int rank, int width, uint32_t job) {
  const auto& nodes = graph.nodes();
  bool has_met = true;
  for (int i = 0; i < static_cast<int>(nodes.size()); ++i) {
    const Graph::Node& node = nodes[i];
    has_met = !node.rows || *node.rows > 0;
    if (!has_met) continue;
    if (!node.single || rank == 0) {
      try {
        node.call(node, {rank, node.single ? 1 : width});
      } catch (...) {
        failure_.raise(std::current_exception());
        if (width == 1) return;
        mark_failed(job, i);
      }
    }
    meet(rank, width);
    // If an op throws, all members stop at that op. A second barrier makes sure that all members
    // have read failed_at_ before the next job can change it.
    if (width > 1 && has_failed(job, i)) [[unlikely]] {
      meet(rank, width);
      return;
    }
  }
  // No later job may change a number of rows while a member still reads it.
  if (!has_met) meet(rank, width);
}

void Team::mark_failed(uint32_t job, int op) {
  const uint64_t mine = uint64_t{job} << 32 | static_cast<uint32_t>(op);
  uint64_t first = failed_at_.load(std::memory_order_relaxed);
  while ((first >> 32 != job || mine < first) && !failed_at_.compare_exchange_weak(first, mine)) {
  }
}

// Returns true if `op` or an earlier op threw in this job. A slow member may call this after a
// later op of the job, or an op of the next job, has failed.
bool Team::has_failed(uint32_t job, int op) const {
  const uint64_t at = failed_at_.load(std::memory_order_relaxed);
  return at >> 32 == job && static_cast<uint32_t>(at) <= static_cast<uint32_t>(op);
}

// Some members did not take part in the last jobs. Sets their counts of barriers to the count of
// the members that did. No member of the last job still writes its count.
void Team::take_along(int width) {
  const uint32_t met = members_[0].arrived.load(std::memory_order_relaxed);
  for (int rank = 1; rank < width; ++rank) {
    std::atomic<uint32_t>& arrived = members_[rank].arrived;
    if (arrived.load(std::memory_order_relaxed) != met)
      arrived.store(met, std::memory_order_relaxed);
  }
}

void Team::meet(int rank, int width) {
  if (width == 1) return;
  const uint32_t mine = members_[rank].arrived.load(std::memory_order_relaxed) + 1;
  publish(members_[rank].arrived, mine);
  // Counts are compared with >=, because another member may already be one barrier ahead.
  const auto there = [mine](uint32_t arrived) { return static_cast<int32_t>(arrived - mine) >= 0; };
  for (int other = 0; other < width; ++other)
    if (other != rank) wait_until(members_[other].arrived, there, kYields);
}

}  // namespace sbrt
