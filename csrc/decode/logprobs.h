// The host's part of log-probs. It owns the memory of log-probs, and collects the entries of
// committed tokens.
#pragma once

#include <vector>

#include "decode/request.h"
#include "state/logprobs.h"

namespace sbrt {

// The log-probs of one seat. A request that wants log-probs allocates lists. The next request
// without log-probs frees lists that are large. Ops write entries into memory that the host can
// read.
class LogprobStore {
 public:
  // Returns the lists of a request, with the addresses that ops use. Allocates memory for them if
  // needed. Called between sequences. limit: length of the longest trunk, in tokens.
  Logprobs start(Exec& exec, const Request& request, int64_t limit, int32_t vocab);
  bool has_prompt() const { return prompt_.top >= 0; }
  bool has_output() const { return output_.top >= 0; }
  // Returns true if a row of the prompt had a NaN. Called after the prompt's last piece.
  bool prompt_failed() const;
  // Copies the entries of `count` tokens that a round committed. `first` is the position of the
  // first one.
  void commit(int64_t first, int64_t count);
  // Returns the entries [tokens committed since the last take(), width()]. They are valid until the
  // next call.
  const std::vector<TokenLogprob>& take();
  // Drops the entries that take() would return.
  void drop() { committed_.clear(); }
  int64_t width() const { return output_.width(); }
  const LogprobList& prompt() const { return prompt_; }

 private:
  LogprobList prompt_, output_;  // lists for prompt and output, at the host's addresses
  Cells<TokenLogprob> prompt_entries_, ring_;
  std::vector<TokenLogprob> committed_, taken_;
};

}  // namespace sbrt
