// Prints hashes of rows stored as integers, and of products with them. There is one line for every
// format and shape. The lines are the same for every instruction set and every machine
// (test_integer_bits.py).
#include <cstdio>
#include <cstring>
#include <vector>

#include "ops/integers.h"
#include "ops/packed.h"

namespace sbrt {
namespace {

constexpr Format kFormats[] = {
    {Element::int8, 32, Number::f16},
    {Element::int8, 64, Number::f32},
    {Element::int8, 16, Number::f32},
    {Element::int8, 16, Number::f32, Number::f32},
    {Element::int8, 32, Number::f16, Number::f16},
    {Element::int4, 32, Number::f16, Number::none, 8},
    {Element::int4, 32, Number::f16, Number::f16},
    {Element::int4, 32, Number::f32, Number::f32},
    {Element::int4, 128, Number::f16, Number::f32},
};
constexpr int64_t kShapes[][3] = {
    {1, 32, 16}, {3, 70, 21}, {8, 200, 33}, {11, 145, 48}, {64, 96, 20}};

struct Draw {
  uint64_t state = 1;
  uint32_t operator()() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state >> 33);
  }
  // Returns a random number from -1 to 1 that float16 represents exactly.
  float number() { return static_cast<float>(static_cast<int>((*this)() % 2049) - 1024) / 1024; }
};

uint64_t hash(uint64_t before, const void* data, size_t bytes) {
  const auto* at = static_cast<const uint8_t*>(data);
  for (size_t i = 0; i < bytes; ++i) before = (before ^ at[i]) * 1099511628211u;
  return before;
}

PackedMatrix random_matrix(const Format& f, int64_t out, int64_t in, Draw& draw) {
  const int64_t groups = (in + f.group - 1) / f.group;
  std::vector<uint8_t> levels(out * in);
  std::vector<float> scales(out * groups), minimums(out * groups);
  for (auto& level : levels)
    level = static_cast<uint8_t>(draw() % (f.element == Element::int4 ? 16 : 256));
  for (auto& scale : scales) scale = draw.number();
  for (auto& minimum : minimums) minimum = draw.number();
  PackedMatrix made(f, out, in);
  const bool shifts = f.minimums != Number::none;
  made.pack(0, Levels{levels.data(), scales.data(), shifts ? minimums.data() : nullptr, out, in},
            f);
  return made;
}

void print_case(const Integers& integers, const Format& f, const int64_t (&shape)[3], Draw& draw) {
  const auto [rows, in, out] = shape;
  const PackedMatrix w = random_matrix(f, out, in, draw);
  std::vector<float> x(rows * in), y(rows * out);
  for (auto& value : x) value = draw.number() * 3.7f;
  Buffer<RowGroup> groups(row_groups_size(in, rows));
  for (int64_t r = 0; r < rows; ++r)
    integers.quantise(x.data() + r * in, in, row_stride(rows), groups.data() + r);
  MatmulTask task{};
  task.panels = w.panels();
  task.format = f;
  task.in = in;
  task.out = task.y_stride = out;
  task.y = y.data();
  task.rows = static_cast<int>(rows);
  task.last = (out + kPanel - 1) / kPanel;
  task.groups = groups.data();
  task.stride = row_stride(rows);
  integers.matmul(task);
  uint64_t found = 14695981039346656037u;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t g = 0; g < row_groups(in); ++g)
      found = hash(found, &groups[g * row_stride(rows) + r], sizeof(RowGroup));
  found = hash(found, y.data(), y.size() * sizeof(float));
  std::printf("%d %d %d: %016llx %.9g\n", static_cast<int>(f.element), f.group,
              static_cast<int>(rows), static_cast<unsigned long long>(found),
              static_cast<double>(y.back()));
}

}  // namespace
}  // namespace sbrt

// Without an argument: prints the names of this machine's instruction sets. With the name of a set:
// prints the lines of this set.
int main(int argc, char** argv) {
  if (argc < 2) {
    for (const sbrt::Integers* each : sbrt::integers_here()) std::printf("%s\n", each->name);
    return 0;
  }
  sbrt::Draw draw;
  for (const sbrt::Format& format : sbrt::kFormats)
    for (const auto& shape : sbrt::kShapes)
      sbrt::print_case(sbrt::integers_named(argv[1]), format, shape, draw);
  return 0;
}
