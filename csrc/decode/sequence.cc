#include "decode/sequence.h"

#include <algorithm>
#include <utility>

namespace sbrt {
namespace {

// Between two calls of take(), up to this number of tokens needs no new allocation.
constexpr int64_t kReserved = 1 << 20;

}  // namespace

void HostSequence::reset() {
  live_ = false;
  stats_ = {};
  missed_ = true;
  log_.clear();
  finish_ = Finish::none;
  stop_token_ = -1;
  error_.clear();
  prompt_ = emitted_ = 0;
  committed_.clear();
  taken_.clear();
}

void HostSequence::begin(const Request& request, int64_t limit) {
  stop_tokens_ = request.stop_tokens;
  prompt_ = static_cast<int64_t>(request.prompt.size());
  limit_ = limit;
  const int64_t most = std::min(limit - prompt_ + 1 + kSlots, kReserved);
  committed_.reserve(most);
  taken_.reserve(most);
  live_ = request.max_tokens > 0;
  if (!live_) finish_ = Finish::length;
}

const std::vector<int32_t>& HostSequence::take() {
  taken_.clear();
  std::swap(taken_, committed_);
  return taken_;
}

int64_t HostSequence::commit(const Record& record, int64_t round) {
  const uint32_t word = record.get(0, round);
  const uint32_t error = word >> 28;
  const int n = static_cast<int>(word >> 8 & 255);
  // Tokens before a failed row are valid. The failed row has no valid token.
  const int tokens = error ? n : n + 1;
  const int64_t before = emitted_;
  for (int i = 0; i < tokens && examine(static_cast<int32_t>(record.get(2 + i, round))); ++i) {
  }
  if (error && live_)
    fail(error == kNanRow ? kNotANumber : "the sampling parameters leave no token");
  count(record, round, emitted_ - before);
  return emitted_ - before;
}

void HostSequence::fail(std::string_view error) {
  live_ = false;
  finish_ = Finish::error;
  error_ = error;
}

// Adds one token to the output. Returns false if the token ends the sequence. If a stop token is
// also the last allowed token, the finish reason is `stop`.
bool HostSequence::examine(int32_t token) {
  committed_.push_back(token);
  ++emitted_;
  if (std::find(stop_tokens_.begin(), stop_tokens_.end(), token) != stop_tokens_.end()) {
    finish_ = Finish::stop;
    stop_token_ = token;
  } else if (left() == 0) {
    finish_ = Finish::length;
  } else {
    return true;
  }
  live_ = false;
  return false;
}

void HostSequence::count(const Record& record, int64_t round, int64_t tokens) {
  const uint32_t word = record.get(0, round);
  const int depth = word & 255, n = word >> 8 & 255, branches = word >> 16 & 255;
  missed_ = (word >> 24 & 1) == 0;
  ++stats_.rounds;
  ++stats_.histogram[n];
  stats_.draft_tokens += depth;
  stats_.accepted += n;
  stats_.branches += branches;
  stats_.discarded_branch_tokens += record.get(1, round) & ((1u << kDiscardedBits) - 1);
  const bool hit = live_ && !missed_;
  stats_.branch_rounds += branches > 0 && live_;
  stats_.branch_hits += hit;
  log_.put({round, depth, n, branches, hit, static_cast<int32_t>(tokens)});
  stats_.draft_limit_rounds += word >> 25 & 1;
  stats_.empty_residuals += word >> 26 & 1;
}

}  // namespace sbrt
