// Runs single ops on a sequence's state, which is given as bytes. Tests compare the results of the
// GPU's kernels with those of these ops.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "core/check.h"
#include "ops/attention.h"
#include "ops/choose.h"
#include "ops/embed.h"
#include "ops/rope.h"
#include "probe/probe.h"
#include "round/ops.h"
#include "state/fields.inc"

namespace py = pybind11;

namespace sbrt {
namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Sizes = std::tuple<int64_t, int64_t, int32_t, int32_t>;  // capacity, window, branches, tail

// Returns a struct of csrc/state that has the given bytes.
template <class T>
std::unique_ptr<T> from_bytes(const py::bytes& bytes) {
  static_assert(std::is_trivially_copyable_v<T>);
  const std::string_view given = bytes;
  check_equal("probe: bytes", sizeof(T), given.size());
  auto value = std::make_unique<T>();
  std::memcpy(static_cast<void*>(value.get()), given.data(), sizeof(T));
  return value;
}

template <class T>
py::bytes to_bytes(const T* values, size_t n) {
  return {reinterpret_cast<const char*>(values), n * sizeof(T)};
}

// A KV ring made from arrays K and V, [layers, kv_heads, slots, head_dim].
class ProbeRing {
 public:
  ProbeRing(const Sizes& sizes, const Floats& k, const Floats& v, bool debug) {
    check_equal("probe: dimensions of k", 4, k.ndim());
    check_equal("probe: elements of v", k.size(), v.size());
    const auto [capacity, window, branches, tail_slots] = sizes;
    const RingShape shape{capacity,
                          window,
                          branches,
                          tail_slots,
                          static_cast<int32_t>(k.shape(0)),
                          static_cast<int32_t>(k.shape(1)),
                          static_cast<int32_t>(k.shape(3))};
    check_equal("probe: slots of k", shape.slots(), k.shape(2));
    ring = std::make_unique<KvRing>(shape, debug);
    each_key([&](int layer, int head, int64_t slot, float* key) {
      for (int64_t i = 0; i < k.shape(3); ++i) key[i * kKeyPanel] = *k.data(layer, head, slot, i);
    });
    std::copy_n(v.data(), v.size(), ring->v(0, 0, 0));
  }
  std::pair<Floats, Floats> content() const {
    const RingShape& s = ring->shape();
    Floats k({int64_t{s.layers}, int64_t{s.kv_heads}, s.slots(), int64_t{s.head_dim}});
    Floats v(k.request().shape);
    each_key([&](int layer, int head, int64_t slot, const float* key) {
      for (int64_t i = 0; i < s.head_dim; ++i)
        *k.mutable_data(layer, head, slot, i) = key[i * kKeyPanel];
    });
    std::copy_n(ring->v(0, 0, 0), v.size(), v.mutable_data());
    return {k, v};
  }

  std::unique_ptr<KvRing> ring;

 private:
  // Calls f for each key and value. In the ring keys are stored in panels, and values contiguously
  // (ring/ring.h).
  template <class F>
  void each_key(F f) const {
    const RingShape& s = ring->shape();
    for (int layer = 0; layer < s.layers; ++layer)
      for (int head = 0; head < s.kv_heads; ++head)
        for (int64_t slot = 0; slot < s.slots(); ++slot)
          f(layer, head, slot, ring->k(layer, head, slot));
  }
};

// Computes the attention of q [rows, heads, head_dim] over a ring of one layer. Returns [rows in
// use, heads, head_dim].
Floats attend_probe(const py::bytes& table, const Floats& q, const Floats& k, const Floats& v,
                    const Sizes& sizes, float scale) {
  const auto rows = from_bytes<Batch>(table);
  const ProbeRing probe(sizes, k, v, false);
  const RingShape& s = probe.ring->shape();
  check_equal("probe: dimensions of q", 3, q.ndim());
  check_within("probe: rows", int32_t{0}, static_cast<int32_t>(q.shape(0)), rows->n);
  const int64_t heads = q.shape(1), d = q.shape(2), stride = (heads + 2 * s.kv_heads) * d;
  Buffer<float> qkv(rows->n * stride), scratch(attention_scratch(s));
  Buffer<Visible> visible(rows->n);
  for (int64_t i = 0; i < rows->n; ++i)
    std::copy_n(q.data(i, 0, 0), heads * d, qkv.data() + i * stride);
  Floats out({int64_t{rows->n}, heads, d});
  see({rows.get(), probe.ring.get(), visible.data(), s.window}, Worker());
  attention({&kernels_named("auto"), rows.get(), probe.ring.get(), visible.data(), qkv.data(),
             out.mutable_data(), scratch.data(), 0, static_cast<int32_t>(heads), scale},
            Worker());
  return out;
}

// Returns qkv after norm and rope, and K and V of the ring. given: qkv before norm and rope, [rows,
// heads + 2 kv_heads, head_dim]. norms: [2, head_dim], the weights for q and k; empty for no norm.
std::tuple<Floats, Floats, Floats> rope_probe(const py::bytes& table, const Floats& given,
                                              const Floats& k, const Floats& v, const Sizes& sizes,
                                              const Floats& inv_freq, float amplitude,
                                              const Floats& norms, float eps) {
  auto rows = from_bytes<Batch>(table);
  for (int i = 0; i < rows->n; ++i) rows->row[i].token = 0;
  const ProbeRing probe(sizes, k, v, false);
  const RingShape& s = probe.ring->shape();
  Floats qkv = given.attr("copy")().cast<Floats>();
  const int64_t half = s.head_dim / 2;
  Buffer<float> cosines(rows->n * half), sines(rows->n * half);
  find_angles({rows.get(), inv_freq.data(), amplitude, half, cosines.data(), sines.data()},
              Worker());
  const float* weights = norms.size() ? norms.data() : nullptr;
  const HeadNorm norm{&kernels_named("auto"), weights, weights ? weights + s.head_dim : nullptr,
                      eps};
  rope({norm, rows.get(), probe.ring.get(), qkv.mutable_data(), cosines.data(), sines.data(), 0,
        static_cast<int32_t>(qkv.shape(1) - 2 * s.kv_heads)},
       {0, qkv.shape(1)}, true);
  const auto [keys, values] = probe.content();
  return {qkv, keys, values};
}

// Runs an op that settles a lane: it moves the KV of accepted tokens to their positions. Returns K,
// V and the bytes of the sequence afterwards. what: 0 settles the target lane, 1 the draft lane,
// and 2 the draft lane after a serial burst.
std::tuple<Floats, Floats, py::bytes> settle_probe(const py::bytes& block, const Floats& k,
                                                   const Floats& v, const Sizes& sizes, int what,
                                                   bool debug) {
  const auto sequence = from_bytes<Sequence>(block);
  const ProbeRing probe(sizes, k, v, debug);
  const auto scratch = std::make_unique<DraftScratch>();
  Roll roll{};
  const int64_t ended = 0;
  roll.word[1] = 1;
  const Seats seats{sequence.get(), 1, &roll, &ended};
  const LaneArgs args{
      seats, &scratch->batch, scratch->dist, probe.ring.get(), probe.ring->shape(), kMaxStepRows};
  check_within("probe: settle", 0, 2, what);
  constexpr void (*kSettle[])(const LaneArgs&, Worker) = {settle_target, settle_draft, move_burst};
  kSettle[what](args, Worker());
  const auto [keys, values] = probe.content();
  return {keys, values, to_bytes(sequence.get(), 1)};
}

// Returns the bytes of a Choice or a Dist for every row of `logits` [rows, columns]. ids: the
// tokens of the columns, ending with the last token of the vocabulary; empty: all tokens.
py::bytes choose_probe(const py::bytes& block, const py::bytes& table, const Floats& logits,
                       bool dists, const std::vector<int32_t>& ids) {
  const auto sequence = from_bytes<Sequence>(block);
  const auto rows = from_bytes<Batch>(table);
  check_within("probe: rows", int64_t{0}, int64_t{logits.shape(0)}, int64_t{rows->n});
  const int n = static_cast<int>(logits.shape(1));
  const int vocab = ids.empty() ? n : *std::max_element(ids.begin(), ids.end()) + 1;
  const ColumnMap map(ids, vocab);
  check_equal("probe: logits of a row", map.columns().n, n);
  ChooseScratch scratch(vocab);
  Buffer<Choice> choice(rows->n);
  Buffer<Dist> dist(rows->n);
  const ChooseArgs args{logits.data(),  n,        map.columns(), rows.get(),
                        sequence.get(), &scratch, choice.data(), dist.data()};
  (dists ? choose_dists : choose_rows)(args, Worker());
  return dists ? to_bytes(dist.data(), rows->n) : to_bytes(choice.data(), rows->n);
}

// Returns the ids of a row [vocab] that min_p, top_k and top_p keep, in ascending order.
std::vector<int32_t> filter_probe(const Floats& logits, const Sampling& dist,
                                  const std::string& isa) {
  const int vocab = static_cast<int>(logits.size());
  const Kernels& kernels = kernels_named(isa);
  bool bad;
  const float most = kernels.largest(logits.data(), vocab, &bad);
  check(!bad && most > -std::numeric_limits<float>::infinity(),
        "filter: expected a finite maximum");
  FilterScratch scratch(vocab);
  const int n = filter(kernels, logits.data(), vocab, most, dist, scratch);
  return {scratch.ids.data(), scratch.ids.data() + n};
}

Floats norm_probe(const Floats& x, const Floats& weight, float eps) {
  Floats y({x.shape(0), x.shape(1)});
  for (int64_t i = 0; i < x.shape(0); ++i)
    kernels_named("auto").norm(x.data(i, 0), weight.data(), eps, x.shape(1), y.mutable_data(i, 0));
  return y;
}

// Returns the gated values [rows, n]. x: [rows, 2 n], n gates and then the n values that they gate.
Floats gate_probe(const Floats& x, const std::string& activation, const std::string& isa) {
  const Kernels& kernels = kernels_named(isa);
  const auto gate = activation == "gelu" ? kernels.gelu_gate : kernels.silu_gate;
  const int64_t n = x.shape(1) / 2;
  Floats y({static_cast<int64_t>(x.shape(0)), n});
  for (int64_t i = 0; i < x.shape(0); ++i)
    gate(x.data(i, 0), x.data(i, 0) + n, n, y.mutable_data(i, 0));
  return y;
}

// Returns sizes and offsets in bytes. The entry "Struct.field" is the offset of the field in the
// struct. The entry "Struct" is the size of the struct.
std::map<std::string, size_t> state_layout() {
  std::map<std::string, size_t> out;
#define SBRT_FIELD(type, field) out[#type "." #field] = offsetof(type, field);
#define SBRT_SIZE(type) out[#type] = sizeof(type);
  SBRT_FIELDS(SBRT_FIELD)
  SBRT_STRUCTS(SBRT_SIZE)
#undef SBRT_SIZE
#undef SBRT_FIELD
  return out;
}

}  // namespace

void bind_ops_probe(py::module_& m) {
  m.def("state_layout", &state_layout, "Offsets and sizes of the structs of csrc/state, bytes.");
  m.def("attend_probe", &attend_probe, py::arg("table"), py::arg("q"), py::arg("k"), py::arg("v"),
        py::arg("sizes"), py::arg("scale"));
  m.def("rope_probe", &rope_probe, py::arg("table"), py::arg("qkv"), py::arg("k"), py::arg("v"),
        py::arg("sizes"), py::arg("inv_freq"), py::arg("amplitude"), py::arg("norms"),
        py::arg("eps"));
  m.def("settle_probe", &settle_probe, py::arg("sequence"), py::arg("k"), py::arg("v"),
        py::arg("sizes"), py::arg("what"), py::arg("debug"));
  m.def("choose_probe", &choose_probe, py::arg("sequence"), py::arg("table"), py::arg("logits"),
        py::arg("dists"), py::arg("ids") = std::vector<int32_t>{});
  m.def("filter_probe", &filter_probe, py::arg("logits"), py::arg("sampling"), py::arg("isa"));
  m.def("norm_probe", &norm_probe, py::arg("x"), py::arg("weight"), py::arg("eps"));
  m.def("gate_probe", &gate_probe, py::arg("x"), py::arg("activation") = "silu",
        py::arg("isa") = "auto");
}

}  // namespace sbrt
