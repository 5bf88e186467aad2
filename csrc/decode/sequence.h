// The host's data about a sequence: the prompt's length, the output, and why the sequence ended.
// All of it comes from the request and from records.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "decode/request.h"
#include "decode/round_log.h"
#include "decode/stats.h"
#include "state/lanes.h"
#include "state/record.h"

namespace sbrt {

constexpr size_t kLoggedRounds = 4096;
constexpr const char* kNotANumber = "the target's logits are not a number";

enum class Finish { none, stop, length, error };

class HostSequence {
 public:
  void reset();  // after it there is no sequence
  // limit: tokens of the longest trunk. The sequence is live from now on, unless max_tokens is 0.
  void begin(const Request& request, int64_t limit);
  void end() { live_ = false; }
  void fail(std::string_view error);  // ends the sequence with an error
  // Takes the tokens of a round up to one that ends the sequence; returns how many it took.
  int64_t commit(const Record& record, int64_t round);
  // The tokens committed since the last take() or begin(); valid until the next call.
  const std::vector<int32_t>& take();
  void drop_tokens() { committed_.clear(); }  // for a sequence that failed

  bool live() const { return live_; }
  bool missed() const { return missed_; }  // the last outcome was not among the branches
  int64_t prompt() const { return prompt_; }
  // Position of the root after the last record that was read.
  int64_t head() const { return prompt_ - 1 + emitted_; }
  int64_t left() const { return limit_ - prompt_ - emitted_; }  // tokens that may still be emitted
  Finish finish() const { return finish_; }
  int32_t stop_token() const { return stop_token_; }  // -1 unless finish() is stop
  const std::string& error() const { return error_; }
  Stats& stats() { return stats_; }
  const Stats& stats() const { return stats_; }
  const RoundLog& log() const { return log_; }

 private:
  bool examine(int32_t token);
  void count(const Record& record, int64_t round, int64_t tokens);

  int64_t prompt_ = 0;   // tokens of the prompt
  int64_t limit_ = 0;    // tokens of the longest trunk
  int64_t emitted_ = 0;  // tokens returned so far
  bool live_ = false;
  bool missed_ = true;  // a sequence starts as after a miss
  std::vector<int32_t> stop_tokens_;
  std::vector<int32_t> committed_, taken_;
  Finish finish_ = Finish::none;
  int32_t stop_token_ = -1;
  std::string error_;
  Stats stats_;
  RoundLog log_{kLoggedRounds};
};

}  // namespace sbrt
