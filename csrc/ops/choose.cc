#include "ops/choose.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/exp.h"
#include "ops/kernels.h"
#include "ops/philox.h"

namespace sbrt {
namespace {

constexpr double kMostNoise = 22.8739;  // gumbel(0xffffffff), rounded up
constexpr int kBlock = 64;              // number of tokens in one call of Kernels::may_reach

struct Best {  // the `want` best pairs (score, column) so far, best first
  int want, count = 0;
  double score[kCandidates];
  int32_t* at;

  double bar() const {
    return count < want ? -std::numeric_limits<double>::infinity() : score[count - 1];
  }
  // Inserts the column if its score is among the best so far. Columns may come in any order. Among
  // equal scores the lowest column is best, because it has the lowest token id.
  void offer(double s, int32_t column) {
    int place = count;
    while (place > 0 && (s > score[place - 1] || (s == score[place - 1] && column < at[place - 1])))
      --place;
    if (place == want) return;
    count = std::min(count + 1, want);
    for (int i = count - 1; i > place; --i) score[i] = score[i - 1], at[i] = at[i - 1];
    score[place] = s, at[place] = column;
  }
};

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Returns the fastest kernels that this machine can run. All sets of kernels compute the same bits
// in passes over logits, so the set may be chosen for speed.
const Kernels& vectors() {
  static const Kernels& best = kernels_named("auto");
  return best;
}

float largest(const float* logits, int n, int32_t& error) {
  bool bad;
  const float most = vectors().largest(logits, n, &bad);
  error = bad ? kNanRow : most == -kInfinity ? kNoToken : kFine;
  return most;
}

bool is_filtered(const Sampling& s, int n) {
  return s.min_p > 0 || s.top_p < 1 || (s.top_k > 0 && s.top_k < n);
}

// Offers a column to `best`; its score includes the noise of its token. Skips the column if an
// upper bound of its score is below the worst score in `best`.
struct NoisyOffer {
  const float* logits;
  const Columns& columns;
  const Sampling& s;
  const Noise& noise;
  Best& best;
  uint32_t group = std::numeric_limits<uint32_t>::max();
  Words4 words{};

  void operator()(int32_t column) {
    const double scaled = logits[column] / s.temperature;
    const double bar = best.bar();
    if (scaled + kMostNoise < bar) return;
    const auto id = static_cast<uint32_t>(columns.id(column));
    if (group != id >> 2) {
      group = id >> 2;
      words = noise_words(noise, group);
    }
    const uint32_t word = words.w[id & 3];
    if (scaled + gumbel_bound(word) < bar) return;
    best.offer(scaled + gumbel(word), column);
  }
};

}  // namespace

namespace {

Noise noise_at(const Sampling& s, Use use, uint64_t where) {
  return {.seed = s.seed, .completion = s.completion, .use = use, .where = where};
}

void greedy_best(const float* logits, int n, float most, Best& best) {
  if (best.want == 1)
    return best.offer(most, static_cast<int32_t>(vectors().next_reaching(logits, 0, n, most)));
  const auto next = [&](int64_t from) {
    const float bar = static_cast<float>(best.bar());
    return vectors().next_reaching(logits, from, n, bar);
  };
  for (int64_t i = next(0); i < n; i = next(i + 1))
    if (logits[i] > -kInfinity) best.offer(logits[i], static_cast<int32_t>(i));
}

// Finds the best columns with noise. The column with the largest logit is offered first, so that
// most other columns can be skipped.
void noisy_best(float most, NoisyOffer& offer) {
  const Kernels& v = vectors();
  const Columns& columns = offer.columns;
  const NoiseBlock noise{offer.noise.seed, offer.noise.where, offer.noise.completion,
                         offer.noise.use, offer.s.temperature};
  const auto top = v.next_reaching(offer.logits, 0, columns.n, most);
  offer(static_cast<int32_t>(top));
  for (int64_t from = 0; from < columns.n; from += kBlock)
    for (uint64_t left =
             v.may_reach(offer.logits, columns.ids, from, columns.n, noise, offer.best.bar());
         left; left &= left - 1) {
      const int64_t i = from + __builtin_ctzll(left);
      if (i != top && offer.logits[i] > -kInfinity) offer(static_cast<int32_t>(i));
    }
}

void find_best(const float* logits, const Columns& columns, const Sampling& s, const Noise& noise,
               ChooseScratch& scratch, Best& best, int32_t& error) {
  const float most = largest(logits, columns.n, error);
  if (error != kFine) return;
  if (s.temperature == 0) return greedy_best(logits, columns.n, most, best);
  NoisyOffer offer{.logits = logits, .columns = columns, .s = s, .noise = noise, .best = best};
  scratch.kept = -1;
  if (is_filtered(s, columns.n))
    scratch.kept = filter(vectors(), logits, columns.n, most, s, scratch.filter);
  if (scratch.kept < 0) return noisy_best(most, offer);
  for (int i = 0; i < scratch.kept; ++i) offer(scratch.filter.ids[i]);
}

// Writes the scores, [n], of the row that find_best has just processed. A score is logit /
// temperature; excluded tokens get -inf.
void keep_scores(const float* logits, int n, const Sampling& s, const ChooseScratch& scratch,
                 float* scores) {
  std::fill_n(scores, n, -kInfinity);
  const auto keep = [&](int32_t i) { scores[i] = logits[i] / s.temperature; };
  if (scratch.kept >= 0) {
    std::for_each_n(scratch.filter.ids.data(), scratch.kept, keep);
  } else {
    for (int i = 0; i < n; ++i)
      if (logits[i] > -kInfinity) keep(i);
  }
}

// The softmax of the raw logits x: e^(x - most) / sum.
struct RawDist {
  float most, sum;
  float moment;  // sum * E[x - most], with the expectation under the softmax

  float q(float x) const { return exp32(x - most) / sum; }
  float lp(float x) const { return x - most - static_cast<float>(std::log(double{sum})); }
  float entropy() const { return static_cast<float>(std::log(double{sum})) - moment / sum; }
};

RawDist raw_dist(const float* logits, int n) {
  bool bad;
  RawDist dist{};
  dist.most = vectors().largest(logits, n, &bad);
  vectors().dist(logits, n, dist.most, &dist.sum, &dist.moment);
  return dist;
}

// Sets lp to the log softmax over the scores of the candidates only.
void score_confidence(const Best& best, Dist& dist) {
  float sum = 0;
  for (int r = 0; r < dist.n; ++r) {
    dist.lp[r] = static_cast<float>(best.score[r] - best.score[0]);
    sum += exp32(dist.lp[r]);
  }
  const float shift = static_cast<float>(std::log(double{sum}));
  for (int r = 0; r < dist.n; ++r) dist.lp[r] -= shift;
}

// Raises the probability of each candidate to the power `sharpness`, then normalises. The
// probability of all other tokens enters the sum unchanged. Rounding must not make a probability
// larger than 1: a node would be more likely than its parent, and could be kept without its parent.
void calibrate(float sharpness, Dist& dist) {
  if (sharpness == 1) return;
  float given = 0, sum = 0;
  for (int r = 0; r < dist.n; ++r) {
    given += exp32(dist.lp[r]);
    dist.lp[r] *= sharpness;
    sum += exp32(dist.lp[r]);
  }
  sum += std::max(0.0f, 1.0f - given);
  const float shift = static_cast<float>(std::log(double{sum}));
  for (int r = 0; r < dist.n; ++r) dist.lp[r] = std::min(dist.lp[r] - shift, 0.0f);
}

}  // namespace

int top_tokens(const float* logits, const Columns& columns, const Sampling& s, int64_t position,
               ChooseScratch& scratch, int want, int32_t* tokens, int32_t& error) {
  Best best{.want = want, .score = {}, .at = tokens};
  const Noise noise = noise_at(s, kTarget, static_cast<uint64_t>(position));
  find_best(logits, columns, s, noise, scratch, best, error);
  for (int i = 0; i < best.count; ++i) tokens[i] = columns.id(tokens[i]);
  return best.count;
}

float raw_softmax(const float* logits, int vocab, int32_t token) {
  return raw_dist(logits, vocab).q(logits[token]);
}

namespace {

// Returns the hash of all tokens of the prefix that ends with the row's token.
uint64_t prefix_hash(const Sequence& c, const Batch& rows, const Row& row, ShapingScratch& s) {
  find_path(c, rows, row, s);
  uint64_t hash = c.trunk_hash;
  for (int i = 0; i < s.path_size; ++i) hash = extended(hash, s.path[i]);
  return hash;
}

// Finds the best columns of row `i` under the request's sampling and shaping. Returns the logits
// that it used: the row with shaping applied, or the raw row if the request has no shaping.
const float* choose(const ChooseArgs& a, int64_t i, const Noise& noise, ChooseScratch& scratch,
                    Best& best, int32_t& error) {
  const Sequence& c = a.of(i);
  const float* logits = a.row(i);
  if (c.shaping.active) {
    // Checks the raw row, so that a NaN is an error even if its token is masked.
    largest(logits, a.columns.n, error);
    if (error != kFine) return logits;
    logits = shape_row(logits, a.columns, c, *a.rows, a.rows->row[i], scratch.shaping);
  }
  find_best(logits, a.columns, c.sampling, noise, scratch, best, error);
  return logits;
}

// Replaces the column indices in a Dist by token ids.
void name_tokens(const Columns& columns, Dist& dist) {
  for (int r = 0; r < dist.n; ++r) dist.token[r] = columns.id(dist.token[r]);
}

// Returns the address for the scores of a row of the draft. Returns null if no token is drawn from
// this row.
float* scores_of(const Sequence& c, const Row& row) {
  const Scores& s = c.scores;
  if (row.node < 0) return nullptr;
  if (row.branch < 0) return s.chain + int64_t{row.node} * s.columns;
  if (c.branches[row.branch].in_place) return s.in_place + int64_t{row.node} * s.columns;
  return s.tail(row.branch, row.node);
}

// Sets the confidences so that they do not depend on which tokens were drawn: draw number r gets
// the r-th largest probability.
void score_blindly(const float* scores, int n, Dist& dist) {
  int32_t columns[kCandidates];
  Best best{.want = dist.n, .score = {}, .at = columns};
  bool bad;  // stays false, because find_best has checked the row
  greedy_best(scores, n, vectors().largest(scores, n, &bad), best);
  score_confidence(best, dist);
}

// Draws candidates without replacement from the draft's distribution at row `i`.
void draw(const ChooseArgs& a, int64_t i, ChooseScratch& scratch, Dist& dist) {
  const Sequence& c = a.of(i);
  const Row& row = a.rows->row[i];
  float* scores = scores_of(c, row);
  dist.n = 0;
  if (!scores) return;
  const Noise noise = noise_at(c.sampling, kDraft, prefix_hash(c, *a.rows, row, scratch.shaping));
  Best best{.want = kCandidates, .score = {}, .at = dist.token};
  int32_t error;
  const float* logits = choose(a, i, noise, scratch, best, error);
  if (error != kFine) return;
  dist.n = best.count;
  keep_scores(logits, a.columns.n, c.sampling, scratch, scores);
  const RawDist raw = raw_dist(a.row(i), a.columns.n);
  dist.q = raw.q(raw.most);
  dist.entropy = raw.entropy();
  score_blindly(scores, a.columns.n, dist);
  calibrate(c.sharpness, dist);
  name_tokens(a.columns, dist);
}

// Finds the draft's best tokens after row `i`, with the noise that the target will use at this
// position.
void guess(const ChooseArgs& a, int64_t i, ChooseScratch& scratch, Dist& dist) {
  const Sequence& c = a.of(i);
  const auto position = static_cast<uint64_t>(a.rows->row[i].position + 1);
  Best best{.want = kCandidates, .score = {}, .at = dist.token};
  // Ignored: after an error the draft proposes nothing. This costs speed but changes no token.
  int32_t error;
  choose(a, i, noise_at(c.sampling, kTarget, position), scratch, best, error);
  dist.n = best.count;
  if (dist.n == 0) return;
  const float* logits = a.row(i);
  const RawDist raw = raw_dist(logits, a.columns.n);
  dist.q = raw.q(logits[dist.token[0]]);
  dist.entropy = raw.entropy();
  if (c.sampling.temperature == 0 && !c.shaping.active) {
    for (int r = 0; r < dist.n; ++r) dist.lp[r] = raw.lp(logits[dist.token[r]]);
  } else {
    score_confidence(best, dist);
  }
  calibrate(c.sharpness, dist);
  name_tokens(a.columns, dist);
}

}  // namespace

void choose_rows(const ChooseArgs& a, Worker worker) {
  const Interval mine = worker.share(a.rows->n);
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    const Sequence& c = a.of(i);
    const Row& row = a.rows->row[i];
    Choice& choice = a.choice[i];
    ChooseScratch& scratch = a.scratch[worker.rank];
    choice.token = -1;
    Best best{.want = 1, .score = {}, .at = &choice.token};
    const auto position = static_cast<uint64_t>(row.position + 1);
    const Noise noise = noise_at(c.sampling, kTarget, position);
    const float* logits = choose(a, i, noise, scratch, best, choice.error);
    if (is_rejection(c) && choice.error == kFine)
      keep_scores(logits, a.columns.n, c.sampling, scratch,
                  c.scores.target + int64_t{row.node} * c.scores.vocab);
  }
}

void choose_dists(const ChooseArgs& a, Worker worker) {
  const Interval mine = worker.share(a.rows->n);
  for (int64_t i = mine.begin; i < mine.end; ++i)
    (is_rejection(a.of(i)) ? draw : guess)(a, i, a.scratch[worker.rank], a.dist[i]);
}

}  // namespace sbrt
