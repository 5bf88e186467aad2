#include "ops/shaping.h"

#include <algorithm>
#include <limits>

#include "core/check.h"

namespace sbrt {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

// Returns true if the prefix that ends with the row's token ends with word[0 .. n - 1].
bool ends_with(const Sequence& c, const ShapingScratch& scratch, const int32_t* word, int64_t n) {
  const int64_t trunk = c.head + 1;
  if (n > trunk + scratch.path_size) return false;
  for (int64_t back = 1; back <= n; ++back) {
    // Distance of the token from the end of the trunk.
    const int64_t beyond = back - scratch.path_size;
    const int32_t token =
        beyond <= 0 ? scratch.path[scratch.path_size - back] : c.trunk[trunk - beyond];
    if (token != word[n - back]) return false;
  }
  return true;
}

void mask(const float* logits, const Columns& columns, const Sequence& c, int64_t position,
          ShapingScratch& scratch) {
  const Shaping& s = c.shaping;
  float* out = scratch.logits.data();
  const auto mask_token = [&](int32_t token) {
    if (const int32_t at = columns.find(token); at >= 0) out[at] = kMasked;
  };
  if (s.restricts) {
    std::fill_n(out, columns.n, kMasked);
    for (const int32_t token : s.allowed)
      if (const int32_t at = columns.find(token); at >= 0) out[at] = logits[at];
  } else {
    std::copy_n(logits, columns.n, out);
  }
  for (const int32_t id : s.holes) mask_token(id);
  for (const int32_t* word = s.words.begin(); word < s.words.end(); word += 1 + *word)
    if (ends_with(c, scratch, word + 1, *word - 1)) mask_token(word[*word]);
  if (position < s.ends_from)
    for (const int32_t token : s.ends) mask_token(token);
}

float penalised(float x, const Shaping& s, int32_t count) {
  x = x > 0 ? x / s.repetition : x * s.repetition;
  x -= s.frequency * static_cast<float>(count);
  return count > 0 ? x - s.presence : x;
}

void penalise(const Sequence& c, const Columns& columns, ShapingScratch& scratch) {
  const Counts& counts = c.counts;
  float* out = scratch.logits.data();
  int32_t* extra = scratch.extra.data();
  const auto penalise_token = [&](int32_t token, int32_t count) {
    if (const int32_t at = columns.find(token); at >= 0)
      out[at] = penalised(out[at], c.shaping, count);
  };
  const int32_t *path = scratch.path, *end = path + scratch.path_size;
  for (const int32_t* token = path; token < end; ++token) ++extra[*token];
  for (int i = 0; i < counts.n; ++i) {
    const int32_t t = counts.token[i];
    penalise_token(t, counts.output[t] + extra[t]);
  }
  for (const int32_t* token = path; token < end; ++token) {
    const int32_t t = *token;
    if (extra[t] > 0 && !counts.seen[t]) penalise_token(t, extra[t]);
    extra[t] = 0;  // a token that occurs twice is penalised only once
  }
}

}  // namespace

// A node after the root that is not in the chain belongs to branch 0, the certain branch. The nodes
// of this branch are in in-flight slots (Branch::in_place).
void find_path(const Sequence& c, const Batch& rows, const Row& row, ShapingScratch& scratch) {
  int n = 0;
  const int root =
      // Bit of the root in the row's mask. It is above 0 if the draft has not processed all tokens
      // of the trunk.
      static_cast<int>(c.head - rows.head[row.seat]);
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
        " tokens after the root, expected ", expected);
}

const float* shape_row(const float* logits, const Columns& columns, const Sequence& c,
                       const Batch& rows, const Row& row, ShapingScratch& scratch) {
  find_path(c, rows, row, scratch);
  mask(logits, columns, c, row.position + 1, scratch);
  for (const TokenBias& b : c.shaping.bias)
    if (const int32_t at = columns.find(b.token); at >= 0) scratch.logits[at] += b.bias;
  if (c.shaping.penalises) penalise(c, columns, scratch);
  return scratch.logits.data();
}

}  // namespace sbrt
