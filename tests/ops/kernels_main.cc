// Prints hashes of the results of every kernel, one line for each op and shape
// (test_kernel_bits.py). Lines that begin with "every" are the same for all instruction sets. Lines
// that begin with "fused" are the same for all sets whose fma rounds once. Exits with 1 if the bits
// of a row depend on adjacent rows.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "ops/choose.h"
#include "ops/kernels.h"
#include "ops/packed.h"

namespace sbrt {
namespace {

using Floats = std::vector<float>;

uint64_t state = 1;
uint32_t draw() {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<uint32_t>(state >> 33);
}
// Returns a random number from -1 to 1 that float16 represents exactly.
float number() { return static_cast<float>(static_cast<int>(draw() % 2049) - 1024) / 1024; }
Floats numbers(int64_t n, float scale = 1) {
  Floats out(n);
  for (auto& x : out) x = number() * scale;
  return out;
}

uint64_t hash(const void* data, size_t bytes) {
  uint64_t found = 14695981039346656037u;
  for (size_t i = 0; i < bytes; ++i)
    found = (found ^ static_cast<const uint8_t*>(data)[i]) * 1099511628211u;
  return found;
}
template <class T>
void print(const char* kind, const std::string& what, const std::vector<T>& found) {
  std::printf("%s %s: %016llx %.9g\n", kind, what.c_str(),
              static_cast<unsigned long long>(hash(found.data(), found.size() * sizeof(T))),
              static_cast<double>(found.back()));
}

std::string shape_of(std::initializer_list<int64_t> sizes) {
  std::string out;
  for (const int64_t size : sizes) out += " " + std::to_string(size);
  return out;
}

bool rows_alone_are_equal = true;

// ---- products

struct Product {
  const Kernels& kernels;
  const PackedMatrix& w;
  const Floats &x, &bias, &add;

  // Returns the products of rows first .. first + rows - 1, [rows, outputs].
  Floats operator()(int64_t first, int64_t rows) const {
    const int64_t out = w.gated() ? w.gates() : w.out();
    Floats y(rows * out), both(rows * kGatedWidth);
    MatmulTask task{};
    task.panels = w.panels();
    task.format = w.stretches()[0].format;
    task.in = w.in();
    task.out = w.out();
    task.x = x.data() + first * w.in();
    task.y = y.data();
    task.y_stride = out;
    task.bias = bias.data();
    task.add = w.gated() ? nullptr : add.data() + first * out;
    task.both = w.gated() ? both.data() : nullptr;
    task.gate = kernels.silu_gate;
    task.rows = static_cast<int>(rows);
    task.last = (w.out() + kPanel - 1) / kPanel;
    kernels.matmul(task);
    return y;
  }
};

void print_products(const Kernels& kernels, const Format& format, Order order) {
  constexpr int64_t kShapes[][3] = {{1, 32, 32}, {3, 70, 42}, {7, 145, 64}, {64, 96, 38}};
  for (const auto& [rows, in, out] : kShapes) {
    const Floats weights = numbers(out * in, 0.25f), x = numbers(rows * in, 3.7f);
    const Floats bias = numbers(2 * out), add = numbers(rows * out);
    PackedMatrix w(format, out, in, order);
    w.pack(0, TensorView{weights.data(), DType::f32, {out, in}, 2});
    const Product product{kernels, w, x, bias, add};
    const Floats all = product(0, rows);
    const int64_t width = static_cast<int64_t>(all.size()) / rows;
    for (int64_t r = 0; r < rows; ++r)
      rows_alone_are_equal &=
          std::memcmp(product(r, 1).data(), all.data() + r * width, width * sizeof(float)) == 0;
    print("fused", "matmul" + shape_of({int64_t(format.element), order == Order::gated, rows, in}),
          all);
  }
}

// ---- attention

// Prints the attention of `rows` rows that share a trunk of `shared` keys. Each row sees one more
// key than the row before it.
void print_attention(const Kernels& kernels, int rows, int head_dim, int64_t shared) {
  const int64_t slots = 512, d = head_dim, stride = 512 + kScorePad;
  const Floats k = numbers(slots * d), v = numbers(slots * d), q = numbers(rows * d, 2);
  Floats out(rows * d), alone(d), scratch(attend_scratch(d, stride));
  std::vector<std::vector<Span>> spans(rows);
  std::vector<Query> queries;
  for (int r = 0; r < rows; ++r) {
    spans[r] = {{300, shared - shared / 2}, {3, shared / 2}, {201, r + 1}};
    queries.push_back({q.data() + r * d, out.data() + r * d, spans[r].data(), shared + r + 1});
  }
  AttendTask task{queries.data(), rows,           head_dim, shared, k.data(),
                  v.data(),       scratch.data(), stride,   0.125f};
  kernels.attend(task);
  print("fused", "attention" + shape_of({rows, d, shared}), out);
  for (int r = 0; r < rows; ++r) {
    Query query = queries[r];
    query.out = alone.data();
    task.queries = &query;
    task.count = 1;
    task.shared = query.keys;
    kernels.attend(task);
    rows_alone_are_equal &= std::memcmp(alone.data(), out.data() + r * d, d * sizeof(float)) == 0;
  }
}

// ---- a row

void print_row_ops(const Kernels& kernels, int64_t n) {
  const Floats x = numbers(n, 9), weight = numbers(n);
  Floats y(n);
  kernels.norm(x.data(), weight.data(), 1e-5f, n, y.data());
  print("fused", "norm" + shape_of({n}), y);
  kernels.silu_gate(x.data(), weight.data(), n, y.data());
  print("fused", "silu" + shape_of({n}), y);
  kernels.gelu_gate(x.data(), weight.data(), n, y.data());
  print("fused", "gelu" + shape_of({n}), y);
}

// Returns n logits like a model's: most of them are far below the largest.
Floats logits_of(int64_t n) {
  Floats x = numbers(n, 12);
  for (int i = 0; i < 40; ++i) x[draw() % n] += 10 + number();
  x[n / 2] = -INFINITY;
  return x;
}

void print_passes(const Kernels& kernels, int64_t n) {
  const Floats x = logits_of(n);
  const std::string shape = shape_of({n});
  bool bad = true;
  const float most = kernels.largest(x.data(), n, &bad);
  print("every", "largest" + shape, Floats{static_cast<float>(bad), most});
  Floats dist(2), weights(n), maxima(16);
  kernels.dist(x.data(), n, most, &dist[0], &dist[1]);
  print("every", "dist" + shape, dist);
  const int64_t sum = kernels.weigh(x.data(), n, most, 0.7f, weights.data());
  print("every", "weigh" + shape, weights);
  print("every", "weights" + shape, std::vector<int64_t>{sum});
  kernels.maxima(x.data(), 1, n / 16, maxima.data());
  print("every", "maxima" + shape, maxima);
  std::vector<int32_t> ids(n);
  ids.resize(kernels.gather(x.data(), n, most - 12, ids.data()) + 1);
  print("every", "gather" + shape, ids);
  std::vector<int64_t> places;
  for (int64_t i = 0; i < n; ++i)
    places.push_back(i = kernels.next_reaching(x.data(), i, n, most - 9));
  print("every", "next" + shape, places);
  std::vector<uint64_t> masks;
  std::vector<int32_t> tokens(n);
  for (int64_t i = 0; i < n; ++i) tokens[i] = static_cast<int32_t>(i * 13 + i * i % 7);
  for (uint32_t use = 0; use < 4; ++use)
    for (int64_t from = 0; from < n; from += 64)
      for (const bool named : {false, true})
        masks.push_back(kernels.may_reach(x.data(), named ? tokens.data() : nullptr, from, n,
                                          {1234567890123456789u, uint64_t{1} << 40, 3, use, 0.8f},
                                          double{most} / 0.8));
  print("every", "noise" + shape, masks);
}

// Prints the results for a NaN or an infinity at every index of a row. The length of a row may be
// no multiple of a vector.
void print_odd_values(const Kernels& kernels) {
  Floats found;
  for (const float odd : {NAN, INFINITY, -INFINITY})
    for (int64_t n : {1, 16, 23, 40})
      for (int64_t at = 0; at < n; ++at) {
        Floats x = numbers(n);
        x[at] = odd;
        bool bad;
        const float most = kernels.largest(x.data(), n, &bad);
        found.push_back(bad ? 1 : 0);
        found.push_back(bad ? 0 : most);
      }
  print("every", "odd values", found);
}

// ---- sampling of tokens, with the fastest kernels of this machine

void print_choices(int vocab) {
  ChooseScratch scratch(vocab);
  std::vector<int32_t> tokens;
  for (int64_t position = 0; position < 50; ++position) {
    const Floats x = logits_of(vocab);
    for (const Sampling& s : {Sampling{0, 0, 1, 0, 7, 0}, Sampling{0.8f, 0, 1, 0, 7, 1},
                              Sampling{1, 0.02f, 1, 0, 7, 0}, Sampling{1.3f, 0, 0.9f, 30, 7, 2}}) {
      int32_t found[4] = {-1, -1, -1, -1}, error = 0;
      top_tokens(x.data(), {.n = vocab}, s, position, scratch, 4, found, error);
      tokens.insert(tokens.end(), found, found + 4);
      tokens.push_back(error);
    }
    tokens.push_back(__builtin_bit_cast(int32_t, raw_softmax(x.data(), vocab, tokens[0])));
  }
  print("every", "choices" + shape_of({vocab}), tokens);
}

void print_all(const Kernels& kernels) {
  for (const Format& format : {kFloat32, kBfloat16, kInt8, kInt4}) {
    print_products(kernels, format, Order::plain);
    print_products(kernels, format, Order::gated);
  }
  for (const int rows : {1, 4, 12})
    for (const int head_dim : {10, 16, 64, 96}) {
      print_attention(kernels, rows, head_dim, 0);
      print_attention(kernels, rows, head_dim, 70);
    }
  for (const int64_t n : {1, 17, 64, 576}) print_row_ops(kernels, n);
  for (const int64_t n : {16, 67, 4099}) print_passes(kernels, n);
  print_odd_values(kernels);
  for (const int vocab : {67, 4099}) print_choices(vocab);
}

}  // namespace
}  // namespace sbrt

// Without an argument: prints the names of this machine's instruction sets. With the name of a set:
// prints the lines of this set.
int main(int argc, char** argv) {
  if (argc < 2) {
    for (const sbrt::Kernels* each : sbrt::kernels_here()) std::printf("%s\n", each->name);
    return 0;
  }
  sbrt::print_all(sbrt::kernels_named(argv[1]));
  if (!sbrt::rows_alone_are_equal) std::fprintf(stderr, "rows differ from rows alone\n");
  return sbrt::rows_alone_are_equal ? 0 : 1;
}
