// How a lane is fed a prompt: in pieces, each by the graph of fewest rows that holds what is left.
// They depend on the prompt alone, so that the same prompt leaves the same KV.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "exec/exec.h"

namespace sbrt {

struct Feed {
  std::vector<int32_t> rows;  // of the graphs, ascending; these point at them
  std::vector<Graph> graphs;
  int64_t capacity = 0;    // of the ring
  int64_t fed = 0;         // tokens enqueued
  int64_t begins[2] = {};  // first tokens of the last two pieces

  // Powers of two from `least` on, up to `most`.
  void size(int32_t least, int32_t most, int64_t positions) {
    for (int32_t n = least; n <= most; n *= 2) rows.push_back(n);
    graphs.assign(rows.size(), Graph("prefill"));
    capacity = positions;
  }

  // Which graph takes the next piece of `all` tokens. All but the first read the trunk in one stretch:
  // they end where the ring begins anew, at the latest.
  size_t next(int64_t all) const {
    const int64_t left = all - fed;
    size_t at = 0;
    while (at + 1 < rows.size() && rows[at] < left &&
           fed + std::min<int64_t>(rows[at + 1], left) <= capacity)
      ++at;
    return at;
  }

  // Counts the piece with that number, of rows[at].
  void took(size_t at, int64_t piece, int64_t all) {
    begins[piece % 2] = fed;
    fed = std::min(all, fed + rows[at]);
  }

  // Tokens behind the lane with `ahead` pieces in flight, at most two, of `pieces` so far.
  int64_t done(int64_t pieces, int64_t ahead) const {
    return ahead == 0 ? fed : begins[(pieces - ahead) % 2];
  }
};

}  // namespace sbrt
