// Compares KvRing with a naive list cache in random operations: append, fork, adopt, drop, commit,
// rollback.
//
//   fuzz_ring fuzz OPERATIONS SEED     ends 0 if every visible slot was right bit for bit, else 1
//   fuzz_ring short OPERATIONS SEED    the same with one slot too few: must end 1
//
// Every token that is written to the ring has a stamp, a number that identifies it. The token's K/V
// is a hash of the stamp. The naive cache is a list of the trunk's stamps. A row sees the last W
// entries, where W is the window. The slots that the row reads must hold the hashes of these
// stamps.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "core/check.h"
#include "ring/ring.h"

namespace {

using namespace sbrt;

constexpr int64_t kBases[] = {0, (int64_t{1} << 31) - 10, (int64_t{1} << 32) - 10};
constexpr int kWorldOps = 2000;  // number of operations in one world; a world has one ring
constexpr int64_t kStop = int64_t{1} << 62;

constexpr int kOperations = 0, kWorlds = 1, kFull = 2, kDebug = 3, kWraps = 4, kCells = 5,
              kRows = 6, kAppend = 7, kFork = 8, kAdopt = 9, kDrop = 10, kCommit = 11,
              kRollback = 12, kRefused = 13, kMoved = 14, kPast32 = 15, kCounts = 16;
constexpr const char* kNames[kCounts] = {
    "operations", "worlds", "full", "debug",  "wraps",    "cells",   "rows",  "append",
    "fork",       "adopt",  "drop", "commit", "rollback", "refused", "moved", "past_2_32"};
using Counts = std::array<int64_t, kCounts>;

// A node in flight. Node j is in slot head + j, and its position is head + level.
struct Node {
  int parent, level;
  uint64_t stamp;
};

struct Tail {  // a branch at `node`; if `stamps` is empty, there is no branch
  int node;
  std::vector<uint64_t> stamps;
};

uint32_t bits_of(uint64_t stamp, int index) {  // finite, never NaN
  const uint64_t z = (stamp + 1) * 0x9E3779B97F4A7C15ull + uint64_t(index) * 0xBF58476D1CE4E5B9ull;
  return static_cast<uint32_t>(z >> 32) & 0x3fffffffu;
}

class World {
 public:
  World(uint64_t seed, bool one_short, Counts& counts)
      : random_(seed), counts_(counts), ring_(random_shape(one_short), !one_short && pick(2)) {
    base_ = kBases[pick(3)];
    touched_ = base_ - 1;
    end_ = full_ ? window_ : kStop;
    tails_.resize(ring_.shape().branches);
    ++counts_[kWorlds];
    counts_[kFull] += full_;
    counts_[kDebug] += ring_.debug();
    put_in_flight(-1);  // the root is an in-flight node
  }

  void step() {
    ++counts_[kOperations];
    switch (pick(8)) {
      case 0:
      case 1:
      case 2:
        return append();
      case 3:
        return fork();
      case 4:
        return drop(pick(static_cast<int>(tails_.size())));
      case 5:
      case 6:
        return commit();
      default:
        return rollback();
    }
  }

 private:
  int pick(int n) { return n <= 1 ? 0 : static_cast<int>(random_() % static_cast<unsigned>(n)); }
  int64_t head() const { return base_ + static_cast<int64_t>(trunk_.size()); }
  int64_t slot(int64_t position) const { return ring_.shape().slot(0, position); }

  // Returns a random shape. W is the window, S the number of in-flight slots. In half of the worlds
  // the capacity is exactly W + S - 1. one_short: the ring gets a window of W - 1, so that it
  // accepts one slot less, but rows still look back W positions. Such a ring is no debug ring, so
  // only the comparison can notice the fault.
  RingShape random_shape(bool one_short) {
    window_ = 1 + pick(pick(2) ? 8 : 120);
    full_ = !one_short && pick(4) == 0;
    if (full_) window_ = 100 + pick(100);
    RingShape shape;
    shape.window = window_;
    shape.capacity = window_ + kSlots - 1 + (full_ ? 1 : pick(2) ? 0 : pick(70));
    if (one_short) {
      window_ += 1;
      shape.capacity = window_ + kSlots - 2;
    }
    shape.branches = 1 + pick(6);
    shape.tail_slots = 1 + pick(pick(2) ? 6 : kMaxTail);
    shape.layers = 1 + pick(2);
    shape.kv_heads = 1 + pick(2);
    shape.head_dim = 1 + pick(4);
    return shape;
  }

  // Calls call(pointer, index) for every element of a slot's K/V.
  template <class Call>
  void components(int64_t slot, Call call) {
    const RingShape& s = ring_.shape();
    int index = 0;
    for (int layer = 0; layer < s.layers; ++layer)
      for (int kv_head = 0; kv_head < s.kv_heads; ++kv_head)
        for (int d = 0; d < s.head_dim; ++d) {
          call(ring_.k(layer, kv_head, slot) + d * kKeyPanel, index++);
          call(ring_.v(layer, kv_head, slot) + d, index++);
        }
  }

  // Writes the K/V of one token to a slot, as a lane does.
  void write(int64_t slot, int64_t position, uint64_t stamp) {
    components(slot, [stamp](float* to, int index) {
      const uint32_t bits = bits_of(stamp, index);
      std::memcpy(to, &bits, sizeof bits);
    });
    ring_.tag(slot, position);
  }

  void read(int64_t slot, int64_t position, uint64_t stamp) {
    ++counts_[kCells];
    ring_.expect(slot, position);
    components(slot, [&](const float* from, int index) {
      const uint32_t bits = bits_of(stamp, index);
      check(!std::memcmp(from, &bits, sizeof bits), "position ", position, " (window ", window_,
            ", capacity ", ring_.shape().capacity, ", head ", head(), "): component ", index,
            " is not what was written");
    });
  }

  // Checks what a row at `position` sees in its window: the trunk, the row's ancestors in the
  // chain, and the row's own tail.
  void read_row(int64_t position, int node, const Tail* tail, int tail_index) {
    ++counts_[kRows];
    const int64_t from = std::max(base_, position - window_ + 1);
    for (int64_t p = from; p < head(); ++p) read(slot(p), p, trunk_[p - base_]);
    for (int j = node; j >= 0; j = nodes_[j].parent) {
      const int64_t p = head() + nodes_[j].level;
      if (p >= from) read(slot(head() + j), p, nodes_[j].stamp);
    }
    for (int j = 0; tail && j <= tail_index; ++j) {
      const int64_t p = head() + nodes_[tail->node].level + 1 + j;
      const int branch = static_cast<int>(tail - tails_.data());
      if (p >= from) read(ring_.shape().tail(0, branch, j), p, tail->stamps[j]);
    }
  }
  void read_node(int j) { read_row(head() + nodes_[j].level, j, nullptr, 0); }
  void read_tail(const Tail& tail, int j) {
    read_row(head() + nodes_[tail.node].level + 1 + j, tail.node, &tail, j);
  }

  void put_in_flight(int parent) {
    const int j = static_cast<int>(nodes_.size());
    nodes_.push_back({parent, parent < 0 ? 0 : nodes_[parent].level + 1, ++stamp_});
    write(slot(head() + j), head() + nodes_[j].level, stamp_);
    touch(head() + j);
  }
  void touch(int64_t position) {
    if (position > touched_ && slot(position) == 0) ++counts_[kWraps];
    touched_ = std::max(touched_, position);
    counts_[kPast32] += position == int64_t{1} << 32;
  }
  bool room() const { return nodes_.size() < kSlots && head() + kSlots < base_ + end_; }

  // Appends nodes, as a path or a tree. All nodes are written; then each node's row reads the slots
  // that it sees.
  void append() {
    ++counts_[kAppend];
    const size_t first = nodes_.size();
    const int rows = 1 + pick(pick(4) ? 6 : kSlots);
    const bool tree = pick(2);
    for (int i = 0; i < rows && room(); ++i)
      put_in_flight(tree ? pick(static_cast<int>(nodes_.size()))
                         : static_cast<int>(nodes_.size()) - 1);
    for (size_t j = first; j < nodes_.size(); ++j) read_node(static_cast<int>(j));
    read_node(0);
    read_node(pick(static_cast<int>(nodes_.size())));
    injective();
  }

  // Starts a branch at a node, or adds nodes to a branch. Rows of the branch see the trunk, the
  // chain up to the node, and the branch's own tail.
  void fork() {
    ++counts_[kFork];
    Tail& tail = tails_[pick(static_cast<int>(tails_.size()))];
    if (tail.stamps.empty()) tail.node = pick(static_cast<int>(nodes_.size()));
    for (int n = 1 + pick(8); n > 0; --n) {
      const int j = static_cast<int>(tail.stamps.size());
      if (j >= ring_.shape().tail_slots) return;
      tail.stamps.push_back(++stamp_);
      write(ring_.shape().tail(0, static_cast<int>(&tail - tails_.data()), j),
            head() + nodes_[tail.node].level + 1 + j, stamp_);
      read_tail(tail, j);
    }
  }

  void drop(int branch) {
    ++counts_[kDrop];
    for (size_t j = 0; j < tails_[branch].stamps.size(); ++j)
      dropped(ring_.shape().tail(0, branch, static_cast<int>(j)), head());
    tails_[branch].stamps.clear();
  }

  // Drops a slot. In a debug ring, checks that the slot is all NaN and belongs to no position.
  void dropped(int64_t slot, int64_t position) {
    ring_.poison(slot);
    if (!ring_.debug() || pick(16)) return;
    components(slot, [slot](const float* at, int) {
      check(std::isnan(*at), "slot ", slot, " was dropped and is not NaN");
    });
    check(refuses(slot, position), "slot ", slot, " was dropped and still passes for a position");
  }
  bool refuses(int64_t slot, int64_t position) const {
    try {
      ring_.expect(slot, position);
    } catch (const Error&) {
      return true;
    }
    return false;
  }

  // Accepts the chain down to a random node. The path to the node becomes trunk: its slots are
  // moved to consecutive positions, in order of depth. If there is a branch at the node, its tail
  // becomes the next chain. All other nodes and tails are dropped.
  void commit() {
    const int node = pick(static_cast<int>(nodes_.size()));
    if (head() + nodes_[node].level + 1 + kSlots >= base_ + end_) return restart();
    ++counts_[kCommit];
    std::vector<int> path(nodes_[node].level + 1);
    for (int j = node; j >= 0; j = nodes_[j].parent) path[nodes_[j].level] = j;
    const int64_t old_head = head();
    for (size_t depth = 1; depth < path.size(); ++depth) {
      ring_.move(slot(old_head + path[depth]), slot(old_head + static_cast<int64_t>(depth)));
      counts_[kMoved] += path[depth] != static_cast<int>(depth);
    }
    for (const int j : path) trunk_.push_back(nodes_[j].stamp);
    nodes_.clear();
    Tail next = adopted(node);
    for (size_t j = 0; j < next.stamps.size(); ++j) {
      nodes_.push_back({static_cast<int>(j) - 1, static_cast<int>(j), next.stamps[j]});
      ring_.move(ring_.shape().tail(0, next.node, static_cast<int>(j)),
                 slot(head() + static_cast<int64_t>(j)));
      touch(head() + static_cast<int64_t>(j));
    }
    leave_in_flight();
    if (nodes_.empty()) put_in_flight(-1);
    for (size_t j = 0; j < nodes_.size(); ++j) read_node(static_cast<int>(j));
  }

  // Finds a branch at `node`. Returns {index of the branch, stamps of its tail}, or {-1, {}} if
  // there is none.
  Tail adopted(int node) {
    for (size_t b = 0; b < tails_.size(); ++b)
      if (tails_[b].node == node && !tails_[b].stamps.empty()) {
        ++counts_[kAdopt];
        return {static_cast<int>(b), tails_[b].stamps};
      }
    return {-1, {}};
  }

  // Drops all in-flight slots after those of the current nodes, and all tails.
  void leave_in_flight() {
    for (int64_t p = head() + static_cast<int64_t>(nodes_.size()); p < head() + kSlots; ++p)
      dropped(slot(p), p);
    if (ring_.debug()) touch(head() + kSlots - 1);
    for (size_t b = 0; b < tails_.size(); ++b) drop(static_cast<int>(b));
  }

  // Returns to a random mark: sets head = mark. Does nothing if a part of the mark's window has
  // been overwritten. A debug ring must notice that.
  void rollback() {
    if (trunk_.empty()) return;
    const int64_t most = std::min<int64_t>(head() - base_, 1 + pick(pick(2) ? 4 : 100));
    const int64_t mark = head() - 1 - pick(static_cast<int>(most));
    // Positions up to `lost` have been overwritten.
    const int64_t lost = touched_ - ring_.shape().capacity;
    const int64_t from = std::max(base_, mark - window_ + 1);
    if (mark < base_ || from <= lost) {
      ++counts_[kRefused];
      if (ring_.debug() && from < mark && from <= lost)
        check(refuses(slot(from), from), "position ", from, " is gone and nobody notices");
      return;
    }
    ++counts_[kRollback];
    trunk_.resize(mark - base_);
    nodes_.clear();
    leave_in_flight();
    put_in_flight(-1);
    read_node(0);
  }

  // Starts again at the same first position. Called when a ring of full attention is full.
  void restart() {
    trunk_.clear();
    nodes_.clear();
    touched_ = base_ - 1;
    for (size_t b = 0; b < tails_.size(); ++b) drop(static_cast<int>(b));
    put_in_flight(-1);
  }

  // In some calls, checks that live positions and tails never share a slot.
  void injective() {
    if (pick(64)) return;
    std::set<int64_t> slots;
    int64_t live = 0;
    const int64_t end = head() + static_cast<int64_t>(nodes_.size());
    for (int64_t p = std::max(base_, head() - window_ + 1); p < end; ++p, ++live)
      slots.insert(slot(p));
    for (size_t b = 0; b < tails_.size(); ++b)
      for (size_t j = 0; j < tails_[b].stamps.size(); ++j, ++live)
        slots.insert(ring_.shape().tail(0, static_cast<int>(b), static_cast<int>(j)));
    check(static_cast<int64_t>(slots.size()) == live, "two live positions share a slot");
    check(*slots.begin() >= 0 && *slots.rbegin() < ring_.shape().slots(), "a slot is not there");
  }

  std::mt19937_64 random_;
  Counts& counts_;
  int64_t window_ = 0;
  bool full_ = false;
  KvRing ring_;
  int64_t base_ = 0;     // first position
  int64_t end_ = kStop;  // number of positions
  int64_t touched_ = 0;  // highest position whose slot was written or dropped
  uint64_t stamp_ = 0;
  std::vector<uint64_t> trunk_;  // the naive cache
  std::vector<Node> nodes_;      // nodes in flight
  std::vector<Tail> tails_;
};

int fuzz(int64_t operations, uint64_t seed, bool one_short) {
  Counts counts{};
  uint64_t world_seed = seed * 1'000'003;
  try {
    while (counts[kOperations] < operations) {
      World world(++world_seed, one_short, counts);
      for (int i = 0; i < kWorldOps; ++i) world.step();
    }
  } catch (const Error& e) {
    std::printf("MISMATCH seed %lu, after %ld operations: %s\n", seed, counts[kOperations],
                e.what());
    return 1;
  }
  for (int i = 0; i < kCounts; ++i)
    std::printf("%s\"%s\": %ld", i ? ", " : "{", kNames[i], counts[i]);
  std::printf("}\n");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  const bool one_short = mode == "short";
  if (argc == 4 && (one_short || mode == "fuzz"))
    return fuzz(std::atoll(argv[2]), std::strtoull(argv[3], nullptr, 10), one_short);
  std::fprintf(stderr, "usage: fuzz_ring fuzz|short OPERATIONS SEED\n");
  return 2;
}
