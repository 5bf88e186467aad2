#include "state/parts.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include "state/fields.inc"
#include "state/lanes.h"
#include "state/sizes.h"

namespace sbrt {

static_assert(kMaxSeats <= kMostSeats, "a set of seats is one word");

namespace {

// The offset of a part's first field in a struct. The part ends where the next part begins.
struct Begin {
  Part part;
  size_t at;
};

template <size_t N>
constexpr std::array<PartRange, N> ranges_of(const Begin (&begins)[N], size_t bytes) {
  std::array<PartRange, N> out{};
  for (size_t i = 0; i < N; ++i) {
    const size_t end = i + 1 < N ? begins[i + 1].at : bytes;
    out[i] = {static_cast<int>(begins[i].part), static_cast<int64_t>(begins[i].at),
              static_cast<int64_t>(end)};
  }
  return out;
}

template <class T>
struct Ranges;

#define SBRT_BEGIN(type, field, part) {Part::part, offsetof(type, field)},
#define SBRT_RANGES(type, list)                                 \
  template <>                                                   \
  struct Ranges<type> {                                         \
    static constexpr Begin kBegins[] = {list(SBRT_BEGIN)};      \
    static constexpr auto k = ranges_of(kBegins, sizeof(type)); \
  };
SBRT_RANGES(Sequence, SBRT_PARTS_OF_SEQUENCE)
SBRT_RANGES(TargetScratch, SBRT_PARTS_OF_TARGET_SCRATCH)
SBRT_RANGES(DraftScratch, SBRT_PARTS_OF_DRAFT_SCRATCH)
#undef SBRT_RANGES
#undef SBRT_BEGIN

template <class T>
Watched watched_at(const T* memory, int place, int seat = -1) {
  constexpr const auto& ranges = Ranges<T>::k;
  return {memory, sizeof(T), ranges.data(), static_cast<int>(ranges.size()), seat, place};
}

}  // namespace

const char* name_of(int part) {
  constexpr const char* kNames[kParts] = {
      "settings",     "trunk",         "outcome",          "chain",           "target_rows",
      "target_batch", "choice",        "target_have",      "draft_rows",      "draft_batch",
      "row_dist",     "draft_have",    "branches",         "chain_dist",      "rank",
      "round",        "target_fed",    "draft_fed",        "record",          "features",
      "target_kv",    "draft_kv",      "target_prompt_kv", "draft_prompt_kv", "target_logits",
      "draft_logits", "target_scores", "draft_scores"};
  return kNames[part];
}

Watched watched(const Sequence* sequence, int seat, int place) {
  return watched_at(sequence, place, seat);
}
Watched watched(const TargetScratch* scratch) { return watched_at(scratch, 0); }
Watched watched(const DraftScratch* scratch, int place) { return watched_at(scratch, place); }

}  // namespace sbrt
