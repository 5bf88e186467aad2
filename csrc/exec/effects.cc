#include "exec/effects.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>

#include "exec/control.h"

namespace sbrt {
namespace {

// Where a field begins; what lies from there to the next one is the part's.
struct Begin {
  Part part;
  size_t at;
};

constexpr Begin kBegins[] = {
    {Part::settings, offsetof(Control, sampling)},
    {Part::outcome, offsetof(Control, round)},
    {Part::chain, offsetof(Control, chain)},
    {Part::outcome, offsetof(Control, outcome)},
    {Part::chain, offsetof(Control, source)},
    {Part::outcome, offsetof(Control, sharpness)},
    {Part::chain, offsetof(Control, lost)},
    {Part::outcome, offsetof(Control, no_mass)},
    {Part::target_rows, offsetof(Control, target_rows)},
    {Part::choice, offsetof(Control, choice)},
    {Part::target_have, offsetof(Control, target_have)},
    {Part::draft_rows, offsetof(Control, draft_rows)},
    {Part::row_law, offsetof(Control, row_law)},
    {Part::draft_have, offsetof(Control, draft_have)},
    {Part::branches, offsetof(Control, step)},
    {Part::draft_have, offsetof(Control, draft_compacts)},
    {Part::branches, offsetof(Control, branches)},
    {Part::chain_law, offsetof(Control, chain_law)},
    {Part::settings, offsetof(Control, rank)},
};
constexpr size_t kRanges = std::size(kBegins);

constexpr std::array<ControlRange, kRanges> ranges() {
  std::array<ControlRange, kRanges> out{};
  for (size_t i = 0; i < kRanges; ++i) {
    const size_t end = i + 1 < kRanges ? kBegins[i + 1].at : sizeof(Control);
    out[i] = {kBegins[i].part, static_cast<int64_t>(kBegins[i].at), static_cast<int64_t>(end)};
  }
  return out;
}
constexpr std::array<ControlRange, kRanges> kControlRanges = ranges();
static_assert(std::is_sorted(kControlRanges.begin(), kControlRanges.end(),
                             [](const ControlRange& a, const ControlRange& b) {
                               return a.begin < b.begin;
                             }),
              "ranges stand in the block's order");

}  // namespace

const char* name_of(Part part) {
  constexpr const char* kNames[kParts] = {
      "settings",    "outcome",       "chain",        "target_rows",   "choice",
      "target_have", "draft_rows",    "row_law",      "draft_have",    "branches",
      "chain_law",   "rank",          "record",       "features",      "target_kv",
      "draft_kv",    "target_logits", "draft_logits", "target_scores", "draft_scores"};
  return kNames[static_cast<int>(part)];
}

const ControlRange* control_ranges(int& count) {
  count = static_cast<int>(kRanges);
  return kControlRanges.data();
}

int changed_part(const Control& before, const Control& after, Parts allowed) {
  const auto* a = reinterpret_cast<const std::byte*>(&before);
  const auto* b = reinterpret_cast<const std::byte*>(&after);
  for (const ControlRange& r : kControlRanges)
    if (!allowed.has(r.part) && std::memcmp(a + r.begin, b + r.begin, r.end - r.begin) != 0)
      return static_cast<int>(r.part);
  return -1;
}

}  // namespace sbrt
