#include "decode/logprobs.h"

#include <algorithm>
#include <utility>

#include "state/sizes.h"

namespace sbrt {
namespace {

// Largest number of positions that two rounds have together: the last one, if it is not read yet,
// and the next one.
constexpr int64_t kUnread = 2 * kSlots;
// Between two calls of take(), up to this number of entries needs no new allocation.
constexpr int64_t kReserved = 1 << 22;
// Number of entries whose memory a seat keeps for the next request.
constexpr size_t kKept = 1 << 20;

// Returns a list with room for the log-probs of `positions` positions, at the address for the host.
// Allocates memory if `entries` has not enough.
LogprobList list_of(Exec& exec, int32_t top, int64_t positions, Cells<TokenLogprob>& entries) {
  if (top < 0) {
    if (entries.size() > kKept) entries = {};
    return {};
  }
  LogprobList list{top, positions, nullptr};
  const auto size = static_cast<size_t>(positions * list.width());
  if (entries.size() < size) entries = exec.cells<TokenLogprob>(size, Where::pinned);
  list.entries = entries.host();
  return list;
}

// Returns the same list at the address for ops.
LogprobList for_ops(LogprobList list, const Cells<TokenLogprob>& entries) {
  if (list.top >= 0) list.entries = entries.device();
  return list;
}

// Drops the entries. Also frees most of the memory of a large list.
void empty(std::vector<TokenLogprob>& entries) {
  entries.clear();
  if (entries.capacity() > kKept) entries = {};
}

}  // namespace

Logprobs LogprobStore::start(Exec& exec, const Request& r, int64_t limit, int32_t vocab) {
  const auto length = static_cast<int64_t>(r.prompt.size());
  const LogprobRequest& wanted = r.logprobs;
  prompt_ = list_of(exec, std::min(wanted.prompt, vocab), length, prompt_entries_);
  output_ = list_of(exec, std::min(wanted.output, vocab), kUnread, ring_);
  empty(committed_);
  empty(taken_);
  if (has_output()) {
    const int64_t most = std::min((limit - length + 1) * width(), kReserved);
    committed_.reserve(most);
    taken_.reserve(most);
  }
  return {for_ops(prompt_, prompt_entries_), for_ops(output_, ring_)};
}

bool LogprobStore::prompt_failed() const {
  for (int64_t position = 1; has_prompt() && position < prompt_.kept; ++position)
    if (prompt_.at(position)->rank == 0) return true;
  return false;
}

void LogprobStore::commit(int64_t first, int64_t count) {
  for (int64_t position = first; position < first + count; ++position) {
    const TokenLogprob* entries = output_.at(position);
    committed_.insert(committed_.end(), entries, entries + width());
  }
}

const std::vector<TokenLogprob>& LogprobStore::take() {
  taken_.clear();
  std::swap(taken_, committed_);
  return taken_;
}

}  // namespace sbrt
