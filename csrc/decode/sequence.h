// The host's data about a sequence: the length of the prompt, the output, and why the sequence
// ended. All of this comes from the request and from records.
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
  void reset();  // drops the sequence
  // Begins a sequence, which is live unless max_tokens is 0. limit: length of the longest trunk, in
  // tokens.
  void begin(const Request& request, int64_t limit);
  void end() { live_ = false; }
  void fail(std::string_view error);  // ends the sequence with an error message
  // Takes the tokens of a round, up to and including one that ends the sequence. Returns how many
  // tokens it took.
  int64_t commit(const Record& record, int64_t round);
  // Returns the tokens committed since the last take() or begin(). They are valid until the next
  // call.
  const std::vector<int32_t>& take();
  void drop_tokens() { committed_.clear(); }  // drops what take() would return, after a failure

  bool live() const { return live_; }
  bool missed() const { return missed_; }  // true: the last outcome was not among the branches
  int64_t prompt() const { return prompt_; }
  // Returns the position of the root after the last record that was read.
  int64_t head() const { return prompt_ - 1 + emitted_; }
  // Number of tokens that may still be emitted.
  int64_t left() const { return limit_ - prompt_ - emitted_; }
  Finish finish() const { return finish_; }
  // The token that stopped the sequence; -1 unless finish() is stop.
  int32_t stop_token() const { return stop_token_; }
  const std::string& error() const { return error_; }
  Stats& stats() { return stats_; }
  const Stats& stats() const { return stats_; }
  const RoundLog& log() const { return log_; }

 private:
  bool examine(int32_t token);
  void count(const Record& record, int64_t round, int64_t tokens);

  int64_t prompt_ = 0;   // number of tokens of the prompt
  int64_t limit_ = 0;    // length of the longest trunk, in tokens
  int64_t emitted_ = 0;  // number of tokens of the output so far
  bool live_ = false;
  bool missed_ = true;  // a sequence starts as if its last outcome was a miss
  std::vector<int32_t> stop_tokens_;
  std::vector<int32_t> committed_, taken_;
  Finish finish_ = Finish::none;
  int32_t stop_token_ = -1;
  std::string error_;
  Stats stats_;
  RoundLog log_{kLoggedRounds};
};

}  // namespace sbrt
