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

ShapingStore::ShapingStore(Exec& exec, int32_t vocab, std::vector<int32_t> holes)
    : exec_(&exec),
      vocab_(vocab),
      token_(exec.cells<int32_t>(vocab, Where::device)),
      output_(exec.cells<int32_t>(vocab, Where::device)),
      seen_(exec.cells<uint8_t>(vocab, Where::device)),
      holes_(std::move(holes)) {
  if (exec.can().has_host_memory) return;
  mask_ = exec.cells<uint8_t>(vocab, Where::device);
  dense_bias_ = exec.cells<float>(vocab, Where::device);
}

DenseShaping ShapingStore::dense() const {
  if (!mask_.device()) return {};
  return {mask_.device(), dense_bias_.device(), output_.device(), seen_.device()};
}

void ShapingStore::check_request(const ShapingRequest& s) const {
  if (!mask_.device()) return;
  for (const std::vector<int32_t>& word : s.words)
    check<InvalidInput>(word.size() == 1, "bad_words: expected words of one token on cuda, got ",
                        word.size());
}

void ShapingStore::copy(const Request& r) {
  ends_.clear();
  for (const int32_t token : r.stop_tokens)
    if (token < vocab_) ends_.push_back(token);  // rows have no logit of the others
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
  if (mask_.device()) {
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

// The prompt's tokens, if they count; of a device's counts the host has those of the last prompt.
void ShapingStore::start_counts(const Request& r, Sequence& sequence) {
  Counts counts{sequence.counts.n, token_.host(), output_.host(), seen_.host()};
  for (int i = 0; i < counts.n; ++i) {  // of the last sequence that kept them
    counts.output[counts.token[i]] = 0;
    counts.seen[counts.token[i]] = 0;
  }
  counts.n = 0;
  if (r.shaping.penalises()) {
    for (const int32_t token : r.prompt) count_token(counts, token, false);
    exec_->upload(token_.block(), counts.n * sizeof(int32_t));
    exec_->upload(output_.block(), vocab_ * sizeof(int32_t));
    exec_->upload(seen_.block(), vocab_);
  }
  sequence.counts = {counts.n, token_.device(), output_.device(), seen_.device()};
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
  uint8_t* mask = mask_.host();
  std::fill_n(mask, vocab_, s.restricts ? DenseShaping::kNoToken : uint8_t{0});
  for (const int32_t token : allowed_)
    if (s.restricts) mask[token] = 0;
  for (const int32_t id : holes_) mask[id] |= DenseShaping::kNoToken;
  for (const std::vector<int32_t>& word : s.words) mask[word[0]] |= DenseShaping::kNoToken;
  for (const int32_t token : ends_) mask[token] |= DenseShaping::kEnds;
  std::fill_n(dense_bias_.host(), vocab_, 0.0f);
  for (const TokenBias& b : bias_) dense_bias_.host()[b.token] += b.bias;
  exec_->upload(mask_.block(), vocab_);
  exec_->upload(dense_bias_.block(), vocab_ * sizeof(float));
}

}  // namespace sbrt
