// Measurements before the first sequence, and on demand: the best number of threads of a lane, and
// the cost of forwards. No result depends on them.
#pragma once

#include <vector>

#include "decode/costs.h"
#include "decode/pump.h"
#include "decode/resources.h"
#include "decode/round_log.h"

namespace sbrt {

// Forwards that are timed together: first `first` that do not count, then `counted`.
struct Burst {
  int first, counted;
};

class Stopwatch {
 public:
  Stopwatch(Resources& resources, Pump& pump) : r_(resources), pump_(pump) {}

  void choose_widths();
  // No sequence may be in flight; this leaves one in its seat. seconds: approximate time.
  Costs measure(double seconds, float temperature);

 private:
  double busy() const;
  int fewer(int times) const;
  void choose_width(LaneUnit& unit);
  void set_rows(LaneUnit& unit, int n, int64_t head);
  Request short_request(float temperature) const;
  void make_trunk(float temperature);
  void begin(const Request& request);
  double seconds_of(LaneUnit& unit, int width, const Burst& burst);
  std::vector<double> time_alone(LaneUnit& unit, const std::vector<int>& rows, double seconds);
  double time_beside(LaneUnit& timed, int rows, int width, LaneUnit& other, int other_rows,
                     int other_width);
  void measure_forwards(Costs& costs, bool drafts, double seconds);
  double overhead(const Policy& policy, const Costs& costs, float temperature);
  void measure_rounds(Costs& costs, bool drafts, float temperature);

  Resources& r_;
  Pump& pump_;
  double asked_ = 0;  // seconds that measuring may take, about
};

}  // namespace sbrt
