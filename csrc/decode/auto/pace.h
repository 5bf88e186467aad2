// Tracks how long the target's rounds take, relative to the times that were measured at the start.
// The speed of a shared machine changes, and the measured times of some row counts may be wrong.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "state/policy.h"

namespace sbrt {

class Pace {
 public:
  Pace() { own_.fill(1); }

  double now() const { return now_; }  // present round time / time measured at the start
  double of(int rows) const { return now_ * own_[rows]; }
  int64_t age() const { return age_; }  // number of rounds since the last call of saw()

  // Notes that a round with `rows` verified rows took `ratio` times the time measured at the start.
  void saw(int rows, double ratio) {
    constexpr double kQuick = 0.05, kSlow = 0.02, kMost = 1.6;
    age_ = 0;
    const double all =
        std::clamp(ratio / own_[rows], 0.5 * now_, 2 * now_);  // a single slow round changes little
    now_ += kQuick * (all - now_);
    own_[rows] += kSlow * (std::clamp(ratio / now_, 0.5, 2.0) - own_[rows]);
    own_[rows] = std::clamp(own_[rows], 1 / kMost, kMost);
  }
  void saw_another() { ++age_; }

 private:
  double now_ = 1;
  // [rows] factor that corrects `now_` for rounds with this number of rows.
  std::array<double, kMaxRows + 1> own_{};
  int64_t age_ = 0;
};

}  // namespace sbrt
