#include "decode/request.h"

#include <algorithm>

#include "core/check.h"
#include "ops/shaping.h"

namespace sbrt {
namespace {

template <class T>
List<T> list_of(const std::vector<T>& items) {
  return {items.data(), static_cast<int64_t>(items.size())};
}

}  // namespace

void check_shaping(const ShapingRequest& s, int32_t vocab) {
  check_within("repetition_penalty", 0.01f, 100.0f, s.repetition);
  check_within("presence_penalty", -2.0f, 2.0f, s.presence);
  check_within("frequency_penalty", -2.0f, 2.0f, s.frequency);
  check_within("min_tokens", int64_t{0}, int64_t{1} << 40, s.min_tokens);
  check<InvalidInput>(!s.restricts || !s.allowed.empty(),
                      "allowed_token_ids: expected at least one token but got none");
  for (const int32_t token : s.allowed) check_within("allowed token", 0, vocab - 1, token);
  for (const TokenBias& b : s.bias) {
    check_within("biased token", 0, vocab - 1, b.token);
    check_within("logit_bias", -100.0f, 100.0f, b.bias);
  }
  for (const std::vector<int32_t>& word : s.words) {
    check<InvalidInput>(!word.empty(), "bad_words: expected at least one token but got none");
    for (const int32_t token : word) check_within("token of a bad word", 0, vocab - 1, token);
  }
}

void check_holes(const std::vector<int32_t>& holes, int32_t vocab) {
  std::vector<bool> masked(vocab);
  for (const int32_t id : holes) {
    check_within("hole of the vocabulary", 0, vocab - 1, id);
    masked[id] = true;
  }
  check<InvalidInput>(std::count(masked.begin(), masked.end(), true) < vocab,
                      "vocabulary: expected a token below ", vocab, " but got holes only");
}

ShapingMemory::ShapingMemory(Exec& exec, int32_t vocab, int32_t seats, int place) : vocab(vocab) {
  const size_t count = static_cast<size_t>(vocab) * seats;
  token = exec.cells<int32_t>(count, Where::device, place);
  output = exec.cells<int32_t>(count, Where::device, place);
  seen = exec.cells<uint8_t>(count, Where::device, place);
  if (exec.can_at(place).has_host_memory) return;
  mask = exec.cells<uint8_t>(count, Where::device, place);
  bias = exec.cells<float>(count, Where::device, place);
  words = exec.cells<int32_t>(kWordsRoom * seats, Where::device, place);
}

DenseShaping ShapingMemory::dense() const {
  if (!mask.device()) return {};
  return {.mask = mask.device(),
          .bias = bias.device(),
          .output = output.device(),
          .seen = seen.device(),
          .vocab = vocab,
          .words = words.device(),
          .words_room = kWordsRoom};
}

ShapingStore::ShapingStore(Exec& exec, const ShapingMemory& memory, int32_t seat,
                           std::vector<int32_t> holes)
    : exec_(&exec), memory_(&memory), seat_(seat), holes_(std::move(holes)) {}

void ShapingStore::check_request(const ShapingRequest& s) const {
  if (!is_dense()) return;
  int64_t room = 3;
  for (const std::vector<int32_t>& word : s.words)
    if (word.size() > 1) room += 1 + static_cast<int64_t>(word.size());
  check<InvalidInput>(room <= ShapingMemory::kWordsRoom, "bad_words: expected at most ",
                      ShapingMemory::kWordsRoom - 3, " words and tokens on ", exec_->can().name,
                      ", got ", room - 3);
}

void ShapingStore::copy(const Request& r) {
  ends_.clear();
  for (const int32_t token : r.stop_tokens)
    if (token < memory_->vocab) ends_.push_back(token);  // a larger id has no logit
  allowed_ = r.shaping.allowed;
  bias_ = r.shaping.bias;
  words_.clear();
  for (const std::vector<int32_t>& word : r.shaping.words) {
    words_.push_back(static_cast<int32_t>(word.size()));
    words_.insert(words_.end(), word.begin(), word.end());
  }
}

void ShapingStore::start(const Request& r, Sequence& sequence) {
  const ShapingRequest& s = r.shaping;
  start_counts(r, sequence);
  sequence.shaping = {};
  if (!s.active() && holes_.empty()) return;
  copy(r);
  if (is_dense()) {
    send_dense(s);
  } else {
    sequence.shaping = lists();
  }
  sequence.shaping.active = 1;
  sequence.shaping.penalises = s.penalises();
  sequence.shaping.restricts = s.restricts;
  sequence.shaping.repetition = s.repetition;
  sequence.shaping.presence = s.presence;
  sequence.shaping.frequency = s.frequency;
  sequence.shaping.ends_from = static_cast<int64_t>(r.prompt.size()) + s.min_tokens;
}

// Counts the prompt's tokens if a penalty needs the counts. On a device the host's arrays count
// only the last prompt, and ops count later tokens in the device's arrays.
void ShapingStore::start_counts(const Request& r, Sequence& sequence) {
  const ShapingMemory& m = *memory_;
  Counts counts{sequence.counts.n, mine(m.token), mine(m.output), mine(m.seen)};
  for (int i = 0; i < counts.n; ++i) {  // clears the counts of an earlier sequence
    counts.output[counts.token[i]] = 0;
    counts.seen[counts.token[i]] = 0;
  }
  counts.n = 0;
  if (r.shaping.penalises()) {
    for (const int32_t token : r.prompt) count_token(counts, token, false);
    send(m.token, counts.n);
    send(m.output, m.vocab);
    send(m.seen, m.vocab);
  }
  sequence.counts = {counts.n, there(m.token), there(m.output), there(m.seen)};
}

Shaping ShapingStore::lists() const {
  Shaping shaping{};
  shaping.holes = list_of(holes_);
  shaping.ends = list_of(ends_);
  shaping.allowed = list_of(allowed_);
  shaping.bias = list_of(bias_);
  shaping.words = list_of(words_);
  return shaping;
}

void ShapingStore::send_dense(const ShapingRequest& s) {
  const ShapingMemory& m = *memory_;
  uint8_t* mask = mine(m.mask);
  std::fill_n(mask, m.vocab, s.restricts ? DenseShaping::kNoToken : uint8_t{0});
  for (const int32_t token : allowed_)
    if (s.restricts) mask[token] = 0;
  for (const int32_t id : holes_) mask[id] |= DenseShaping::kNoToken;
  for (const std::vector<int32_t>& word : s.words)
    if (word.size() == 1) mask[word[0]] |= DenseShaping::kNoToken;
  for (const int32_t token : ends_) mask[token] |= DenseShaping::kEnds;
  float* bias = mine(m.bias);
  std::fill_n(bias, m.vocab, 0.0f);
  for (const TokenBias& b : bias_) bias[b.token] += b.bias;
  send(m.mask, m.vocab);
  send(m.bias, m.vocab);
  send_words(s);
}

// Sends the bad words that have several tokens, in the form of DenseShaping::words. Bad words of
// one token are in the mask.
void ShapingStore::send_words(const ShapingRequest& s) {
  const int64_t first = seat_ * ShapingMemory::kWordsRoom;
  int32_t* list = memory_->words.host() + first;
  std::vector<int32_t> begins{0}, tokens;
  int32_t longest = 0;
  for (const std::vector<int32_t>& word : s.words) {
    if (word.size() == 1) continue;
    tokens.insert(tokens.end(), word.begin(), word.end());
    begins.push_back(static_cast<int32_t>(tokens.size()));
    longest = std::max(longest, static_cast<int32_t>(word.size()));
  }
  list[0] = static_cast<int32_t>(begins.size()) - 1;
  list[1] = longest;
  std::copy(tokens.begin(), tokens.end(), std::copy(begins.begin(), begins.end(), list + 2));
  exec_->upload(memory_->words, first, 2 + begins.size() + tokens.size());
}

}  // namespace sbrt
