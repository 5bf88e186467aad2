// How a lane is fed prompts: in pieces, each by the graph of fewest rows that holds what is left. They
// depend on the prompt alone, so that the same prompt leaves the same KV.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "exec/exec.h"

namespace sbrt {

// The graphs of a lane, and how many pieces it was given.
struct Feed {
  std::vector<int32_t> rows;  // of the graphs, ascending; these point at them
  std::vector<Graph> graphs;
  int64_t capacity = 0;    // of a seat's ring
  int64_t pieces = 0;      // enqueued so far
  Event fed{"prefilled"};  // counts those done

  // Powers of two from `least` on, up to `most`.
  void size(int32_t least, int32_t most, int64_t positions) {
    rows.push_back(least);
    for (int32_t n = 2 * least; n <= most; n *= 2) rows.push_back(n);
    graphs.assign(rows.size(), Graph("prefill"));
    capacity = positions;
  }

  // Which graph takes the next piece of a prompt of `all` tokens, of which it has `from`. All but the
  // first read the trunk in one stretch: they end where the ring begins anew, at the latest.
  size_t next(int64_t from, int64_t all) const {
    const int64_t left = all - from;
    size_t at = 0;
    while (at + 1 < rows.size() && rows[at] < left &&
           from + std::min<int64_t>(rows[at + 1], left) <= capacity)
      ++at;
    return at;
  }
};

// How far a lane has come with the prompt of one sequence.
struct Fed {
  int64_t tokens = 0;  // enqueued

  // Takes the piece with that number, which ends before token `end`.
  void took(int64_t number, int64_t end) {
    before_ = last_;
    last_ = {number, tokens};
    tokens = end;
  }
  int64_t last_piece() const { return last_.number; }  // 0: none yet
  // Tokens behind a lane that has done `pieces` pieces, of whatever prompts; two are in flight at most.
  int64_t done(int64_t pieces) const {
    if (last_.number <= pieces) return tokens;
    return before_.number <= pieces ? last_.begin : before_.begin;
  }

 private:
  struct Piece {
    int64_t number = 0, begin = 0;
  };
  Piece before_, last_;
};

}  // namespace sbrt
