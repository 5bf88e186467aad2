// The host's half of log-probs: memory for what a request asks, and what was read of it.
#pragma once

#include <vector>

#include "decode/request.h"
#include "state/logprobs.h"

namespace sbrt {

// Of one seat. It has memory from the first request on that asks.
class LogprobStore {
 public:
  // Between sequences: makes `asked` what the request asks, with memory for it. limit: longest trunk.
  void start(const Request& request, int64_t limit, int32_t vocab, Logprobs& asked);
  bool has_prompt() const { return prompt_.top >= 0; }
  bool has_output() const { return output_.top >= 0; }
  // Whether a row of the prompt was not a number. Its last piece has ended.
  bool prompt_failed() const;
  // Takes the entries of `count` tokens that a round committed, from position `first` on.
  void commit(int64_t first, int64_t count);
  // [tokens committed since the last take(), width()]; valid until the next.
  const std::vector<TokenLogprob>& take();
  int64_t width() const { return output_.width(); }
  const LogprobList& prompt() const { return prompt_; }

 private:
  LogprobList prompt_, output_;
  Buffer<TokenLogprob> prompt_entries_, ring_;
  std::vector<TokenLogprob> committed_, taken_;
};

}  // namespace sbrt
