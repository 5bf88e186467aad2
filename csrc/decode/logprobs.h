// The host's part of log-probs: their memory, and the entries of committed tokens.
#pragma once

#include <vector>

#include "decode/request.h"
#include "state/logprobs.h"

namespace sbrt {

// The log-probs of one seat. The first request that asks allocates the lists. The next request that
// does not ask frees large lists. Ops write entries into memory that the host reads.
class LogprobStore {
 public:
  // Returns the lists of a request for ops, with memory for them. Called between sequences. limit:
  // longest trunk.
  Logprobs start(Exec& exec, const Request& request, int64_t limit, int32_t vocab);
  bool has_prompt() const { return prompt_.top >= 0; }
  bool has_output() const { return output_.top >= 0; }
  // True if a row of the prompt was not a number. Called after its last piece.
  bool prompt_failed() const;
  // Takes the entries of `count` tokens that a round committed, from position `first` on.
  void commit(int64_t first, int64_t count);
  // [tokens committed since the last take(), width()]; valid until the next.
  const std::vector<TokenLogprob>& take();
  // Drops the entries that take() would return.
  void drop() { committed_.clear(); }
  int64_t width() const { return output_.width(); }
  const LogprobList& prompt() const { return prompt_; }

 private:
  LogprobList prompt_, output_;  // with the host's addresses
  Cells<TokenLogprob> prompt_entries_, ring_;
  std::vector<TokenLogprob> committed_, taken_;
};

}  // namespace sbrt
