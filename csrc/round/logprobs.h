// Ops that write log-probs for the requests that ask; only the cpu and sim backends run them.
#pragma once

#include "ops/logprobs.h"
#include "state/roll.h"

namespace sbrt {

// `logits` is [max_rows, stride] f32 of the target's last forward; the first `vocab` of a row
// count.
struct LogprobArgs {
  Seats seats;
  const Batch* batch;
  const float* logits;
  int64_t stride;
  int32_t vocab;
  const Logprobs* asked;   // [seats]
  ChooseScratch* scratch;  // [team]
};

// After `select`: for the tokens committed by the round. Each uses the row that decided it.
void output_logprobs(const LogprobArgs& args, Worker worker);
// After the forward of a piece: for the tokens that follow its rows.
void prompt_logprobs(const LogprobArgs& args, Worker worker);

}  // namespace sbrt
