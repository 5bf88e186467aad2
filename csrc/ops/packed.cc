#include "ops/packed.h"

#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <string>
#include <thread>

#include "ops/quantise.h"

namespace sbrt {
namespace {

// Number of bytes that hold the levels of 16 outputs for 4 inputs in int8, or for 8 inputs in int4.
constexpr int64_t kQuadBytes = 4 * kPanel;

int64_t group_bytes(const Format& f) {
  const int64_t levels = f.group * kPanel / (f.element == Element::int4 ? 2 : 1);
  return levels + kPanel * (bytes_of(f.scales) + bytes_of(f.minimums));
}

int64_t panel_bytes_of(const Format& f, int64_t in) {
  if (f.quantised()) return (in + f.group - 1) / f.group * group_bytes(f);
  return (in + 1) / 2 * kPanel * (f.element == Element::f32 ? 8 : 4);
}

void put_number(Number kind, float value, uint8_t* at) {
  if (kind == Number::f32) std::memcpy(at, &value, sizeof value);
  if (kind != Number::f16) return;
  const uint16_t half = to_f16(value);
  std::memcpy(at, &half, sizeof half);
}

float number_at(Number kind, const uint8_t* at) {
  if (kind == Number::f32) {
    float value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  uint16_t half;
  std::memcpy(&half, at, sizeof half);
  return from_f16(half);
}

bool holds(Number kind, float value) {
  return kind == Number::f32 || std::isnan(value) || from_f16(to_f16(value)) == value;
}

// Reads and writes the weights of one output (one vector lane) in a quantised panel.
class Lane {
 public:
  Lane(const Format& format, uint8_t* panel, int64_t lane)
      : f_(format), lane_(lane), at_(panel), size_(group_bytes(format)) {}

  void put_scale(int64_t group, float scale, float minimum) {
    uint8_t* at = at_ + group * size_;
    put_number(f_.scales, scale, at + lane_ * bytes_of(f_.scales));
    at += kPanel * bytes_of(f_.scales);
    put_number(f_.minimums, minimum, at + lane_ * bytes_of(f_.minimums));
  }
  float scale(int64_t group) const {
    return number_at(f_.scales, at_ + group * size_ + lane_ * bytes_of(f_.scales));
  }
  float minimum(int64_t group) const {
    if (f_.minimums == Number::none) return 0;
    const uint8_t* at = at_ + group * size_ + kPanel * bytes_of(f_.scales);
    return number_at(f_.minimums, at + lane_ * bytes_of(f_.minimums));
  }
  void put(int64_t k, int level) {
    uint8_t& byte = *byte_of(k);
    if (f_.element == Element::int8) {
      byte = static_cast<uint8_t>(level + 128);
    } else {
      const int shift = k % 8 / 4 * 4;
      byte = static_cast<uint8_t>((byte & (0xf0 >> shift)) | level << shift);
    }
  }
  int level(int64_t k) const {
    if (f_.element == Element::int8) return *byte_of(k) - 128;
    return *byte_of(k) >> (k % 8 / 4 * 4) & 15;
  }

 private:
  uint8_t* byte_of(int64_t k) const {
    const int64_t of_group = k % f_.group;
    const int64_t quad = f_.element == Element::int4 ? of_group / 8 : of_group / 4;
    uint8_t* levels =
        at_ + k / f_.group * size_ + kPanel * (bytes_of(f_.scales) + bytes_of(f_.minimums));
    return levels + quad * kQuadBytes + lane_ * 4 + k % 4;
  }

  const Format& f_;
  int64_t lane_;
  uint8_t* at_;
  int64_t size_;
};

void pack_floats(const Format& f, uint8_t* panel, int64_t lane, const TensorView& w, int64_t row) {
  auto* words = reinterpret_cast<uint32_t*>(panel) + lane;
  const int64_t in = w.shape[1];
  for (int64_t k = 0; k < in; ++k) {
    const float value = w.at(row * in + k);
    if (f.element == Element::f32) {
      std::memcpy(words + k * kPanel, &value, sizeof value);
    } else {
      const uint32_t half = to_bf16(value);
      uint32_t& word = words[k / 2 * kPanel];
      word = k % 2 ? (word & 0xffffu) | half << 16 : half;
    }
  }
}

void pack_rounded(const Format& f, uint8_t* panel, int64_t lane, const TensorView& w, int64_t row) {
  Lane to(f, panel, lane);
  const int64_t in = w.shape[1];
  float values[kLargestGroup];
  QuantisedGroup made;
  for (int64_t k = 0, group = 0; k < in; k += f.group, ++group) {
    const int64_t n = std::min<int64_t>(f.group, in - k);
    for (int64_t i = 0; i < n; ++i) values[i] = w.at(row * in + k + i);
    quantise_group(f, values, n, made);
    to.put_scale(group, made.scale, made.minimum);
    for (int64_t i = 0; i < n; ++i) to.put(k + i, made.level[i]);
  }
}

// Packs a row that is quantised in format `from` into a panel of format `to`. `to` can hold all
// values of `from`: it is `from` itself, or the result of `join` with another format.
void pack_levels(const Format& from, const Format& to, uint8_t* panel, int64_t lane,
                 const Levels& w, int64_t row) {
  Lane out(to, panel, lane);
  const int64_t groups = (w.columns + from.group - 1) / from.group;
  const uint8_t* levels = w.levels + row * w.columns;
  for (int64_t k = 0; k < w.columns; k += to.group) {
    const int64_t of = row * groups + k / from.group;
    out.put_scale(k / to.group, w.scales[of], w.minimums ? w.minimums[of] : 0);
  }
  const bool is_int4 = from.element == Element::int4;
  const int shift = to.zero - from.zero;
  for (int64_t k = 0; k < w.columns; ++k)
    out.put(k, (is_int4 ? levels[k] : static_cast<int8_t>(levels[k])) + shift);
}

// Converts a row in format `from` to floats. Used for a matrix that stores other parts as floats.
void widen_levels(const Format& from, const Levels& w, int64_t row, float* out) {
  const int64_t groups = (w.columns + from.group - 1) / from.group;
  for (int64_t k = 0; k < w.columns; ++k) {
    const uint8_t byte = w.levels[row * w.columns + k];
    const int level = from.element == Element::int4 ? byte : static_cast<int8_t>(byte);
    const int64_t of = row * groups + k / from.group;
    const float scaled = w.scales[of] * static_cast<float>(level - from.zero);
    out[k] = w.minimums ? scaled + w.minimums[of] : scaled;
  }
}

void check_levels(const Format& f, const Levels& w) {
  const int64_t groups = (w.columns + f.group - 1) / f.group;
  check<InvalidInput>(
      (w.minimums != nullptr) == (f.minimums != Number::none),
      "quantised rows: expected minimums where the format has them, and only there");
  for (int64_t i = 0; i < w.rows * groups; ++i) {
    check<InvalidInput>(holds(f.scales, w.scales[i]), "quantised rows: scale ", i,
                        ": expected a number that float16 holds but got ", w.scales[i]);
    check<InvalidInput>(!w.minimums || holds(f.minimums, w.minimums[i]), "quantised rows: minimum ",
                        i, ": expected a number that float16 holds but got ",
                        w.minimums ? w.minimums[i] : 0);
  }
  if (f.element != Element::int4) return;
  const uint8_t* end = w.levels + w.rows * w.columns;
  const uint8_t* found = std::find_if(w.levels, end, [](uint8_t x) { return x > 15; });
  check<InvalidInput>(found == end, "quantised rows: level ", found - w.levels,
                      ": expected 0 to 15 but got ", found == end ? 0 : int{*found});
}

// Returns the number of cores that this thread may run on, which may be fewer than the machine has.
int64_t allowed_cores() {
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) return std::max(1, CPU_COUNT(&allowed));
#endif
  return std::max<int64_t>(1, std::thread::hardware_concurrency());
}

// Splits the rows into parts and calls f(part) for each part. Large parts run on threads of their
// own. No two rows may share a byte that `f` writes. Waits for all parts, then throws the first
// exception of any part.
template <class F>
void each_part(int64_t rows, int64_t columns, const F& f) {
  constexpr int64_t kWorth = 1 << 18;  // number of weights for which an extra thread saves time
  const int64_t most = std::min(allowed_cores(), std::max<int64_t>(1, rows));
  const int64_t parts = std::clamp<int64_t>(rows * columns / kWorth, 1, most);
  std::vector<std::exception_ptr> failed(parts);
  const auto work = [&](int64_t part) noexcept {
    try {
      f(Interval{rows * part / parts, rows * (part + 1) / parts});
    } catch (...) {
      failed[part] = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  others.reserve(parts - 1);
  int64_t mine = parts;  // first of the parts that have no thread of their own
  try {
    for (int64_t part = 1; part < parts; ++part) others.emplace_back(work, part);
  } catch (const std::exception&) {  // no more threads, or no memory
    mine = static_cast<int64_t>(others.size()) + 1;
  }
  work(0);
  for (int64_t part = mine; part < parts; ++part) work(part);
  for (std::thread& other : others) other.join();
  for (const std::exception_ptr& each : failed)
    if (each) std::rethrow_exception(each);
}

std::vector<PackedMatrix::Part> merged(std::vector<PackedMatrix::Part> parts, Order order) {
  bool fits = true;
  for (size_t i = 0; i + 1 < parts.size(); ++i)
    if (parts[i].out % kPanel || order == Order::gated ||
        parts[i].format.quantised() != parts[i + 1].format.quantised())
      fits = false;
  if (fits) return parts;
  PackedMatrix::Part all{parts[0].format, 0};
  for (const PackedMatrix::Part& part : parts)
    all = {join(all.format, part.format), all.out + part.out};
  return {all};
}

}  // namespace

PackedMatrix::PackedMatrix(const Format& format, int64_t out, int64_t in, Order order)
    : PackedMatrix(std::vector<Part>{{format, out}}, in, order) {}

PackedMatrix::PackedMatrix(const std::vector<Part>& parts, int64_t in, Order order)
    : order_(order), in_(in) {
  int64_t bytes = 0;
  const int64_t halves = order == Order::gated ? 2 : 1;
  for (const Part& part : merged(parts, order)) {
    check_format(part.format);
    const int64_t panels = (part.out / halves + kPanel - 1) / kPanel * halves;
    const int64_t each = panel_bytes_of(part.format, in);
    stretches_.push_back({part.format, {panels_, panels_ + panels}, bytes, each});
    panels_ += panels;
    out_ += part.out;
    check<InvalidInput>(!__builtin_add_overflow(bytes, checked_mul(panels, each), &bytes),
                        "size overflows 64 bits: a matrix of ", out_, " x ", in);
  }
  memory_ = Buffer<uint8_t>(bytes, PageSize::large);
}

int64_t PackedMatrix::place_of(int64_t o) const {
  if (order_ == Order::plain) return o;
  const int64_t half = o / gates(), i = o % gates();
  return (i / kPanel * 2 + half) * kPanel + i % kPanel;
}

const PackedMatrix::Stretch& PackedMatrix::stretch_of(int64_t panel) const {
  return *std::find_if(stretches_.begin(), stretches_.end(),
                       [=](const Stretch& s) { return panel < s.panels.end; });
}

uint8_t* PackedMatrix::panel_at(const Stretch& s, int64_t panel) const {
  return memory_.data() + s.offset + (panel - s.panels.begin) * s.panel_bytes;
}

void PackedMatrix::pack(int64_t first, const TensorView& w) {
  check_equal("packed matrix: columns", in_, w.shape[1]);
  check_within("packed matrix: rows", int64_t{0}, out_ - first, w.shape[0]);
  each_part(w.shape[0], in_, [&](Interval rows) {
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const int64_t place = place_of(first + row), panel = place / kPanel;
      const Stretch& to = stretch_of(panel);
      (to.format.quantised() ? pack_rounded : pack_floats)(to.format, panel_at(to, panel),
                                                           place % kPanel, w, row);
    }
  });
}

void PackedMatrix::pack(int64_t first, const Levels& w, const Format& format) {
  check_equal("packed matrix: columns", in_, w.columns);
  check_within("packed matrix: rows", int64_t{0}, out_ - first, w.rows);
  check_levels(format, w);
  each_part(w.rows, in_, [&](Interval rows) {
    std::vector<float> wide;  // one row, converted to floats
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const int64_t place = place_of(first + row), panel = place / kPanel;
      const Stretch& to = stretch_of(panel);
      if (to.format.quantised()) {
        pack_levels(format, to.format, panel_at(to, panel), place % kPanel, w, row);
        continue;
      }
      wide.resize(in_);
      widen_levels(format, w, row, wide.data());
      pack_floats(to.format, panel_at(to, panel), place % kPanel,
                  {wide.data(), DType::f32, {1, in_}, 2}, 0);
    }
  });
}

void PackedMatrix::read(int64_t o, float* out) const {
  const int64_t place = place_of(o), panel = place / kPanel, lane = place % kPanel;
  const Stretch& from = stretch_of(panel);
  uint8_t* at = panel_at(from, panel);
  if (from.format.quantised()) {
    const Lane row(from.format, at, lane);
    const float zero = static_cast<float>(from.format.zero);
    for (int64_t k = 0; k < in_; ++k) {
      const int64_t group = k / from.format.group;
      const float scaled = row.scale(group) * (static_cast<float>(row.level(k)) - zero);
      out[k] = from.format.minimums == Number::none ? scaled : scaled + row.minimum(group);
    }
    return;
  }
  const auto* words = reinterpret_cast<const uint32_t*>(at) + lane;
  for (int64_t k = 0; k < in_; ++k) {
    if (from.format.element == Element::f32) {
      std::memcpy(out + k, words + k * kPanel, sizeof(float));
    } else {
      out[k] = from_bf16(static_cast<uint16_t>(words[k / 2 * kPanel] >> (k % 2 * 16)));
    }
  }
}

}  // namespace sbrt
