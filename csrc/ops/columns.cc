#include "ops/columns.h"

#include <algorithm>

#include "core/check.h"

namespace sbrt {

Columns Columns::below(int32_t vocab) const {
  Columns few = *this;
  few.n =
      ids ? static_cast<int32_t>(std::lower_bound(ids, ids + n, vocab) - ids) : std::min(n, vocab);
  return few;
}

ColumnMap::ColumnMap(const std::vector<int32_t>& ids, int32_t vocab) : columns_{.n = vocab} {
  if (ids.empty()) return;
  check_within("head: ids", size_t{1}, static_cast<size_t>(vocab), ids.size());
  ids_ = Buffer<int32_t>(ids.size());
  of_ = Buffer<int32_t>(vocab);
  const auto n = static_cast<int32_t>(ids.size());
  std::fill_n(of_.data(), vocab, n);
  for (int32_t i = 0; i < n; ++i) {
    check_within("head: id of a column", i == 0 ? 0 : ids[i - 1] + 1, vocab - 1, ids[i]);
    ids_[i] = ids[i];
    of_[ids[i]] = i;
  }
  columns_ = {n, ids_.data(), of_.data(), vocab};
}

}  // namespace sbrt
