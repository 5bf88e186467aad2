// Cuts prompts into pieces for a lane. A piece uses the smallest graph that holds the rest of the
// prompt. If no graph does, the piece uses the largest. Pieces depend only on the prompt, so equal
// prompts give bit-identical KV.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "exec/exec.h"

namespace sbrt {

// A lane's graphs for prompt pieces, and the number of pieces enqueued on the lane.
struct Feed {
  // [graphs] number of rows, ascending; the graphs hold pointers to these values.
  std::vector<int32_t> rows;
  std::vector<Graph> graphs;
  int64_t capacity = 0;    // number of slots of a seat's ring
  int64_t pieces = 0;      // number of pieces enqueued so far
  Event fed{"prefilled"};  // counts finished pieces
  // KV copies between seats that have a common beginning of their prompts. Used only by a lane
  // whose KV is in one KvBlock.
  std::vector<Mail> copies;  // [seats] the last copy to each seat
  int64_t sent = 0;          // number of copies enqueued so far
  Event copied{"copied"};    // counts finished copies

  // Makes an empty graph for `least` rows, one for twice as many, and so on up to `most`.
  // positions: number of slots of a seat's ring.
  void size(int32_t least, int32_t most, int64_t positions) {
    rows.push_back(least);
    for (int32_t n = 2 * least; n <= most; n *= 2) rows.push_back(n);
    graphs.assign(rows.size(), Graph("prefill"));
    capacity = positions;
  }

  // Returns the index of the graph for the next piece of a prompt. The prompt has `all` tokens, of
  // which `from` are fed. Only the first graph can read a ring that wraps. The pieces of larger
  // graphs must end before the ring wraps.
  size_t next(int64_t from, int64_t all) const {
    const int64_t left = all - from;
    size_t at = 0;
    while (at + 1 < rows.size() && rows[at] < left &&
           from + std::min<int64_t>(rows[at + 1], left) <= capacity)
      ++at;
    return at;
  }
};

// The progress of one sequence's prompt in one lane.
struct Fed {
  Fed() = default;
  explicit Fed(int64_t there) : tokens(there) {}

  int64_t tokens = 0;  // number of prompt tokens whose pieces are enqueued or done
  int64_t copy = 0;    // number of the KV copy from another seat; 0: none

  // Notes that the lane's piece `number` feeds this prompt up to token `end`, but not `end` itself.
  void took(int64_t number, int64_t end) {
    before_ = last_;
    last_ = {number, tokens};
    tokens = end;
  }
  int64_t last_piece() const { return last_.number; }  // number of the last piece; 0: none yet
  // Returns how many tokens of this prompt are fed once the lane has finished its first `pieces`
  // pieces, of any prompts. At most two pieces are in flight.
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
