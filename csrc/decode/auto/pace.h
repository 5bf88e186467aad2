// How long rounds of the target alone take, over what their forwards were measured to take: a machine
// that others use too is slower now and quicker then, and a forward of some rows may be off by itself.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "state/policy.h"

namespace sbrt {

class Pace {
 public:
  Pace() { own_.fill(1); }

  double now() const { return now_; }  // of all rows
  double of(int rows) const { return now_ * own_[rows]; }
  int64_t age() const { return age_; }  // rounds since the last that was seen

  // A round verified `rows` rows and took `ratio` times what it was measured to take.
  void saw(int rows, double ratio) {
    constexpr double kQuick = 0.05, kSlow = 0.02, kMost = 1.6;
    age_ = 0;
    const double all =
        std::clamp(ratio / own_[rows], 0.5 * now_, 2 * now_);  // but for interruptions
    now_ += kQuick * (all - now_);
    own_[rows] += kSlow * (std::clamp(ratio / now_, 0.5, 2.0) - own_[rows]);
    own_[rows] = std::clamp(own_[rows], 1 / kMost, kMost);
  }
  void saw_another() { ++age_; }

 private:
  double now_ = 1;
  std::array<double, kMaxRows + 1> own_{};  // by rows
  int64_t age_ = 0;
};

}  // namespace sbrt
