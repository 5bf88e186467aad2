// Maps the columns of a row of logits to token ids. A row has a column for each token of the
// vocabulary, or only for the tokens of a trimmed LM head.
#pragma once

#include <cstdint>
#include <vector>

#include "core/memory.h"

namespace sbrt {

// The columns of a row of logits, in ascending order of their token ids. So among equal logits the
// first column has the lowest id.
struct Columns {
  int32_t n = 0;                 // number of columns of a row
  const int32_t* ids = nullptr;  // [n] token of each column; null: column i is token i
  // [tokens] column of each token. A value of n or more means that the token has no column. Null if
  // `ids` is null.
  const int32_t* of = nullptr;
  int32_t tokens = 0;

  int32_t id(int64_t column) const { return ids ? ids[column] : static_cast<int32_t>(column); }
  // Returns the column of `token`, or -1 if the row has no logit for it.
  int32_t find(int32_t token) const {
    const int32_t column = !ids ? token : token < tokens ? of[token] : n;
    return column < n ? column : -1;
  }
  // Returns the columns whose token ids are below `vocab`.
  Columns below(int32_t vocab) const;
};

// Owns the token ids of an LM head's columns, and the map from ids to columns.
class ColumnMap {
 public:
  // ids: token ids of the LM head's rows, in ascending order and below `vocab`. Empty: the head has
  // all tokens. Throws InvalidInput.
  ColumnMap(const std::vector<int32_t>& ids, int32_t vocab);
  const Columns& columns() const { return columns_; }

 private:
  Buffer<int32_t> ids_, of_;
  Columns columns_;
};

}  // namespace sbrt
