// Feeds prompts to a lane in pieces; each uses the graph of fewest rows that holds the rest. The
// pieces depend on the prompt alone, so that equal prompts leave equal KV.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "exec/exec.h"

namespace sbrt {

// The graphs of a lane, and the number of pieces given to it.
struct Feed {
  std::vector<int32_t> rows;  // rows of the graphs, ascending; the graphs hold pointers to them
  std::vector<Graph> graphs;
  int64_t capacity = 0;    // slots of a seat's ring
  int64_t pieces = 0;      // enqueued so far
  Event fed{"prefilled"};  // counts finished pieces
  // Copies of the beginnings of prompts between seats, of a lane that has its KV in a block.
  std::vector<Mail> copies;  // [seats] the last one to each seat
  int64_t sent = 0;          // enqueued so far
  Event copied{"copied"};    // counts finished copies

  // Powers of two from `least` on, up to `most`.
  void size(int32_t least, int32_t most, int64_t positions) {
    rows.push_back(least);
    for (int32_t n = 2 * least; n <= most; n *= 2) rows.push_back(n);
    graphs.assign(rows.size(), Graph("prefill"));
    capacity = positions;
  }

  // The graph for the next piece of a prompt of `all` tokens, of which `from` are fed. All graphs
  // but the first read the trunk as one contiguous part: such pieces end before the ring wraps.
  size_t next(int64_t from, int64_t all) const {
    const int64_t left = all - from;
    size_t at = 0;
    while (at + 1 < rows.size() && rows[at] < left &&
           from + std::min<int64_t>(rows[at + 1], left) <= capacity)
      ++at;
    return at;
  }
};

// The progress of a lane with the prompt of one sequence.
struct Fed {
  Fed() = default;
  explicit Fed(int64_t there) : tokens(there) {}

  int64_t tokens = 0;  // fed or enqueued
  int64_t copy = 0;    // number of the copy from another seat; 0: none

  // Registers the piece with that number, which ends before token `end`.
  void took(int64_t number, int64_t end) {
    before_ = last_;
    last_ = {number, tokens};
    tokens = end;
  }
  int64_t last_piece() const { return last_.number; }  // 0: none yet
  // Tokens that a lane has fed after `pieces` pieces, of any prompts; at most two are in flight.
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
