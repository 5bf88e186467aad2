#include "spec/request.h"

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

void ShapingStore::start(const Request& r, Control& control) {
  const ShapingRequest& s = r.shaping;
  Counts& counts = control.counts;
  for (int i = 0; i < counts.n; ++i) {  // of the last sequence that kept them
    output_[counts.token[i]] = 0;
    seen_[counts.token[i]] = 0;
  }
  counts = {0, token_.data(), output_.data(), seen_.data()};
  control.shaping = {};
  if (!s.active() && holes_.empty()) return;
  copy(r);
  control.shaping = {.active = 1,
                     .penalises = s.penalises(),
                     .restricts = s.restricts,
                     .repetition = s.repetition,
                     .presence = s.presence,
                     .frequency = s.frequency,
                     .ends_from = static_cast<int64_t>(r.prompt.size()) + s.min_tokens,
                     .holes = list_of(holes_),
                     .ends = list_of(ends_),
                     .allowed = list_of(allowed_),
                     .bias = list_of(bias_),
                     .words = list_of(words_)};
  if (s.penalises())
    for (const int32_t token : r.prompt) count_token(counts, token, false);
}

}  // namespace sbrt
