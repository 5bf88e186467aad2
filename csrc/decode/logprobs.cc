#include "decode/logprobs.h"

#include <algorithm>
#include <utility>

#include "state/sizes.h"

namespace sbrt {
namespace {

constexpr int64_t kUnread = 2 * kSlots;  // positions of an unread round, and of the next one
constexpr int64_t kReserved = 1 << 22;   // entries between two take() without an allocation
constexpr size_t kKept = 1 << 20;        // entries that a seat keeps for the next request

LogprobList list_of(int32_t top, int32_t vocab, int64_t positions, Buffer<TokenLogprob>& entries) {
  if (top < 0) {
    if (entries.size() > kKept) entries = {};
    return {};
  }
  LogprobList list{std::min(top, vocab), positions, nullptr};
  const auto size = static_cast<size_t>(positions * list.width());
  if (entries.size() < size) entries = Buffer<TokenLogprob>(size);
  list.entries = entries.data();
  return list;
}

}  // namespace

void LogprobStore::start(const Request& r, int64_t limit, int32_t vocab, Logprobs& asked) {
  const auto length = static_cast<int64_t>(r.prompt.size());
  prompt_ = list_of(r.logprobs.prompt, vocab, length, prompt_entries_);
  output_ = list_of(r.logprobs.output, vocab, kUnread, ring_);
  asked = {prompt_, output_};
  committed_.clear();
  taken_.clear();
  if (!has_output()) return;
  const int64_t most = std::min((limit - length + 1) * width(), kReserved);
  committed_.reserve(most);
  taken_.reserve(most);
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
