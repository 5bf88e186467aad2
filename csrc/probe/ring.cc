// A KV ring alone, for tests: slots are written, moved and read as raw bytes.
#include <cstring>
#include <limits>
#include <string>

#include "core/check.h"
#include "probe/probe.h"
#include "ring/ring.h"

namespace py = pybind11;

namespace sbrt {
namespace {

class RingProbe {
 public:
  RingProbe(const RingShape& shape, bool debug) : ring_(shape, debug) {}

  // Writes K and V of a slot, as a lane does for the token at `position`. bytes: K, then V, of
  // every layer and head.
  void write(int64_t slot, int64_t position, const std::string& bytes) {
    check_equal("probe: bytes of a slot", slot_bytes(), bytes.size());
    const char* from = bytes.data();
    each(checked(slot), [&from](float* to, size_t size) {
      std::memcpy(to, from, size);
      from += size;
    });
    ring_.tag(slot, position);
  }

  // Returns the bytes of a slot, for a reader that expects it to hold `position`. A debug ring
  // throws if the slot holds another position.
  py::bytes read(int64_t slot, int64_t position) {
    ring_.expect(checked(slot), position);
    std::string out;
    each(slot, [&out](const float* from, size_t size) {
      out.append(reinterpret_cast<const char*>(from), size);
    });
    return out;
  }

  void move(int64_t from, int64_t to) { ring_.move(checked(from), checked(to)); }
  void poison(int64_t slot) { ring_.poison(checked(slot)); }
  const RingShape& shape() const { return ring_.shape(); }
  size_t slot_bytes() const {
    const RingShape& s = ring_.shape();
    return sizeof(float) * 2 * s.layers * s.kv_heads * s.head_dim;
  }

 private:
  template <class Call>
  void each(int64_t slot, Call call) {
    const RingShape& s = ring_.shape();
    for (int layer = 0; layer < s.layers; ++layer)
      for (int head = 0; head < s.kv_heads; ++head) {
        for (int i = 0; i < s.head_dim; ++i)
          call(ring_.k(layer, head, slot) + i * kKeyPanel, sizeof(float));
        call(ring_.v(layer, head, slot), s.head_dim * sizeof(float));
      }
  }
  int64_t checked(int64_t slot) const {
    check_within("probe: slot", int64_t{0}, ring_.shape().slots() - 1, slot);
    return slot;
  }

  KvRing ring_;
};

int64_t slot_of(const RingProbe& p, int64_t position) {
  check_within("probe: position", int64_t{0}, std::numeric_limits<int64_t>::max(), position);
  return p.shape().slot(0, position);
}

int64_t tail_of(const RingProbe& p, int branch, int j) {
  check_within("probe: branch", 0, p.shape().branches - 1, branch);
  check_within("probe: tail slot", 0, p.shape().tail_slots - 1, j);
  return p.shape().tail(0, branch, j);
}

}  // namespace

void bind_ring_probe(py::module_& m) {
  py::class_<RingProbe>(m, "RingProbe", "A KV ring by itself (csrc/ring/ring.h).")
      .def(py::init([](int64_t capacity, int64_t window, int32_t branches, int32_t tail_slots,
                       int32_t layers, int32_t kv_heads, int32_t head_dim, bool debug) {
             return std::make_unique<RingProbe>(
                 RingShape{capacity, window, branches, tail_slots, layers, kv_heads, head_dim},
                 debug);
           }),
           py::kw_only(), py::arg("capacity"), py::arg("window"), py::arg("branches") = 0,
           py::arg("tail_slots") = 0, py::arg("layers") = 1, py::arg("kv_heads") = 1,
           py::arg("head_dim") = 1, py::arg("debug") = false)
      .def("write", &RingProbe::write, py::arg("slot"), py::arg("position"), py::arg("data"))
      .def("read", &RingProbe::read, py::arg("slot"), py::arg("position"))
      .def("move", &RingProbe::move, py::arg("source"), py::arg("target"))
      .def("poison", &RingProbe::poison, py::arg("slot"))
      .def("slot", &slot_of, py::arg("position"))
      .def("tail", &tail_of, py::arg("branch"), py::arg("j"))
      .def_property_readonly("slot_bytes", &RingProbe::slot_bytes)
      .def_property_readonly("slots", [](const RingProbe& p) { return p.shape().slots(); });
}

}  // namespace sbrt
