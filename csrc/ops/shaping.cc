#include "ops/shaping.h"

#include <algorithm>
#include <limits>

#include "core/check.h"

namespace sbrt {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

// Whether the row's last tokens are word[0 .. n - 1].
bool ends_with(const Sequence& c, const ShapingScratch& scratch, const int32_t* word, int64_t n) {
  const int64_t trunk = c.head + 1;
  if (n > trunk + scratch.path_size) return false;
  for (int64_t back = 1; back <= n; ++back) {
    const int64_t beyond = back - scratch.path_size;  // of the trunk, from its end
    const int32_t token =
        beyond <= 0 ? scratch.path[scratch.path_size - back] : c.trunk[trunk - beyond];
    if (token != word[n - back]) return false;
  }
  return true;
}

void mask(Logits logits, int32_t vocab, const Sequence& c, int64_t position,
          ShapingScratch& scratch) {
  const Shaping& s = c.shaping;
  float* out = scratch.logits.data();
  if (s.restricts) {
    std::fill(out, out + vocab, kMasked);
    for (const int32_t token : s.allowed)
      if (token < logits.n) out[token] = logits[token];
  } else {
    std::fill(std::copy_n(logits.at, logits.n, out), out + vocab, kMasked);
  }
  for (const int32_t id : s.holes) out[id] = kMasked;
  for (const int32_t* word = s.words.begin(); word < s.words.end(); word += 1 + *word)
    if (ends_with(c, scratch, word + 1, *word - 1)) out[word[*word]] = kMasked;
  if (position < s.ends_from)
    for (const int32_t token : s.ends) out[token] = kMasked;
}

float penalised(float x, const Shaping& s, int32_t count) {
  x = x > 0 ? x / s.repetition : x * s.repetition;
  x -= s.frequency * static_cast<float>(count);
  return count > 0 ? x - s.presence : x;
}

void penalise(const Sequence& c, ShapingScratch& scratch) {
  const Counts& counts = c.counts;
  float* out = scratch.logits.data();
  int32_t* extra = scratch.extra.data();
  const int32_t *path = scratch.path, *end = path + scratch.path_size;
  for (const int32_t* token = path; token < end; ++token) ++extra[*token];
  for (int i = 0; i < counts.n; ++i) {
    const int32_t t = counts.token[i];
    out[t] = penalised(out[t], c.shaping, counts.output[t] + extra[t]);
  }
  for (const int32_t* token = path; token < end; ++token) {
    const int32_t t = *token;
    if (extra[t] > 0 && !counts.seen[t]) out[t] = penalised(out[t], c.shaping, extra[t]);
    extra[t] = 0;  // a token that stands there twice is penalised once
  }
}

}  // namespace

// A node of the chain that is not hung yet is the certain branch's, which grows in the in-flight slots.
void find_path(const Sequence& c, const Batch& rows, const Row& row, ShapingScratch& scratch) {
  int n = 0;
  const int root =
      static_cast<int>(c.head - rows.head[row.seat]);  // its bit: a draft may lag the trunk
  for (int bit = root + 1; bit < kSlots; ++bit) {
    if (!row.chain.has(bit)) continue;
    const int node = bit - root;
    scratch.path[n++] = node <= c.chain.size ? c.chain.token[node] : c.branches[0].token[node];
  }
  for (int j = 0; j < kMaxTail && row.tail.bits(); ++j)
    if (row.tail.has(j)) scratch.path[n++] = c.branches[row.branch].token[j];
  scratch.path_size = n;
  const int64_t expected = std::max<int64_t>(0, row.position - c.head);
  check(n == expected, "shaping: the row at position ", row.position, " has ", n,
        " tokens behind the root, expected ", expected);
}

Logits shape_row(Logits logits, int32_t vocab, const Sequence& c, const Batch& rows, const Row& row,
                 ShapingScratch& scratch) {
  find_path(c, rows, row, scratch);
  mask(logits, vocab, c, row.position + 1, scratch);
  for (const TokenBias& b : c.shaping.bias) scratch.logits[b.token] += b.bias;
  if (c.shaping.penalises) penalise(c, scratch);
  return {scratch.logits.data(), vocab};
}

}  // namespace sbrt
