// Measures the best number of threads of a lane before the first sequence. Measures the costs of
// forwards when asked to. Measurements change no token.
#pragma once

#include <vector>

#include "decode/costs.h"
#include "decode/pump.h"
#include "decode/resources.h"
#include "decode/round_log.h"

namespace sbrt {

// A series of forwards. The first `first` forwards are not timed, and the next `counted` are.
struct Burst {
  int first, counted;
};

class Stopwatch {
 public:
  Stopwatch(Resources& resources, Pump& pump) : r_(resources), pump_(pump) {}

  void choose_widths();
  // Returns the costs of forwards, measured for about `seconds`. No sequence may be in flight.
  // Leaves a sequence in seat 0. temperature: the temperature of the sampling after each forward.
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
  double asked_ = 0;  // approximate time in seconds that the measurement may take
};

}  // namespace sbrt
