#include "round/accept.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "ops/philox.h"
#include "round/chain.h"

namespace sbrt {
namespace {

// Number of rows of draft scores: those of the chain and of a certain branch.
constexpr int64_t kKept = kSlots + kMaxTail;

// Divides `dist` by its sum, unless the sum is 0, and returns the sum. Adds in order of ascending
// id.
double normalise(double* dist, int32_t vocab) {
  double sum = 0;
  for (int i = 0; i < vocab; ++i) sum += dist[i];
  if (sum > 0)
    for (int i = 0; i < vocab; ++i) dist[i] /= sum;
  return sum;
}

double surplus(double p, double q) { return p > q ? p - q : 0; }

// A candidate for the token after a node. It is a child of the node in the chain, or the first
// token of a branch. For a branch `node` is 0.
struct Candidate {
  int32_t token, node;
};

// Writes the candidates drawn at `node` to `found`, in the order of their draws. Returns their
// number.
int drawn_at(const Sequence& c, int node, Candidate* found) {
  int n = 0;
  for (int i = node + 1; i <= c.chain.size; ++i)
    if (c.chain.parent[i] == node && !c.chain.known.has(i) && c.verified.has(i))
      found[n++] = {c.chain.token[i], i};
  for (int b = 0; b < c.branch_count; ++b)
    if (c.branches[b].node == node) found[n++] = {c.branches[b].token[0], 0};
  return n;
}

// Returns the child of `node` that came from a look-up and is verified, or 0 if there is none.
// There is at most one.
int known_child(const Sequence& c, int node) {
  for (int i = node + 1; i <= c.chain.size; ++i)
    if (c.chain.parent[i] == node && c.chain.known.has(i) && c.verified.has(i)) return i;
  return 0;
}

// Returns the noise with which the token after `node` is sampled.
Noise noise_after(const Sequence& c, int node, Use use) {
  const int64_t position = c.head + c.chain.level[node] + 1;
  return {.seed = c.sampling.seed,
          .completion = c.sampling.completion,
          .use = use,
          .where = static_cast<uint64_t>(position)};
}

// Decides the token after `node`. Returns this token, and the chain node that holds it (0: none).
// `own`: the token that the target itself chose after `node`.
Candidate decide(Sequence& c, int32_t own, int node, const Place& place) {
  Candidate drawn[kSlots + kMaxBranches];
  const int n = drawn_at(c, node, drawn);
  const int next = child(c.chain, node, own);
  if (n == 0) return {own, c.verified.has(next) ? next : 0};
  check(c.draft_nodes.has(node), "select: expected a draft distribution, found none at node ",
        node);
  softmax(c.scores.target + int64_t{node} * place.vocab, place.vocab, place.p);
  softmax(c.scores.chain + int64_t{node} * c.scores.columns, c.scores.columns, place.q);
  spread(c.scores.ids, c.scores.columns, place.vocab, place.q);
  const Noise coins = noise_after(c, node, kCoin);
  uint32_t tries = 0;
  if (const int found = known_child(c, node)) {
    const Candidate known{c.chain.token[found], found};
    if (uniform(coins, tries++) < place.p[known.token]) return known;
    c.no_mass |= !reject_known(place, known.token);
  }
  for (int i = 0; i < n && !c.no_mass; ++i) {
    if (stands(place, drawn[i].token, uniform(coins, tries++))) return drawn[i];
    c.no_mass |= !reject(place, drawn[i].token);
  }
  return {draw_from(place.p, place.vocab, uniform(noise_after(c, node, kResidual), 0)), 0};
}

}  // namespace

void softmax(const float* scores, int32_t n, double* dist) {
  const double most = *std::max_element(scores, scores + n);
  for (int i = 0; i < n; ++i) dist[i] = std::exp(scores[i] - most);
  normalise(dist, n);
}

// Works from the last entry to the first. ids[i] >= i, so no entry is overwritten before it is
// read.
void spread(const int32_t* ids, int32_t n, int32_t vocab, double* dist) {
  int32_t end = vocab;
  for (int32_t i = n - 1; i >= 0; --i) {
    const int32_t id = ids ? ids[i] : i;
    const double given = dist[i];
    std::fill(dist + id + 1, dist + end, 0.0);
    dist[id] = given;
    end = id;
  }
  std::fill(dist, dist + end, 0.0);
}

bool stands(const Place& place, int32_t token, double u) {
  return u * place.q[token] < place.p[token];
}

bool reject(const Place& place, int32_t token) {
  double left = 0;
  for (int i = 0; i < place.vocab; ++i) left += surplus(place.p[i], place.q[i]);
  for (int i = 0; left > 0 && i < place.vocab; ++i)
    place.p[i] = surplus(place.p[i], place.q[i]) / left;
  place.q[token] = 0;
  normalise(place.q, place.vocab);
  return left > 0;
}

bool reject_known(const Place& place, int32_t token) {
  const double had = place.p[token];
  place.p[token] = 0;
  place.q[token] = 0;
  normalise(place.q, place.vocab);
  if (normalise(place.p, place.vocab) > 0) return true;
  place.p[token] = had;
  return false;
}

int32_t draw_from(const double* dist, int32_t vocab, double u) {
  double whole = 0, sum = 0;
  for (int i = 0; i < vocab; ++i) whole += dist[i];
  int32_t last = 0;
  for (int i = 0; i < vocab; ++i) {
    if (!(dist[i] > 0)) continue;
    sum += dist[i];
    last = i;
    if (sum > u * whole) break;
  }
  return last;
}

Outcome walk_by_chance(Sequence& c, const Choice* choice, const Place& place) {
  Outcome out;
  out.node = out.n = out.path[0] = 0;
  out.branch = -1;
  for (;;) {
    const Choice& own = choice[verified_before(c, out.node)];
    out.error = own.error;
    out.y = 0;
    if (out.error) return out;
    const Candidate taken = decide(c, own.token, out.node, place);
    out.y = taken.token;
    if (taken.node == 0) return out;
    out.node = taken.node;
    out.path[++out.n] = taken.node;
  }
}

AcceptMemory::AcceptMemory(int32_t vocab, const Columns& of_draft, int32_t branches,
                           int32_t tail_slots)
    : vocab_(vocab),
      tail_slots_(tail_slots),
      columns_(of_draft),
      scores_(int64_t{kMaxRows} * vocab + (kKept + int64_t{branches} * tail_slots) * of_draft.n),
      dists_(2 * static_cast<size_t>(vocab)) {}

Scores AcceptMemory::scores() const {
  float* chain = scores_.data() + int64_t{kMaxRows} * vocab_;
  return {.vocab = vocab_,
          .tail_slots = tail_slots_,
          .columns = columns_.n,
          .ids = columns_.ids,
          .target = scores_.data(),
          .chain = chain,
          .in_place = chain + int64_t{kSlots} * columns_.n,
          .tails = chain + kKept * columns_.n};
}

}  // namespace sbrt
