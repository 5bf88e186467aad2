// Runs one lane alone, without an engine.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "bind/gil.h"
#include "model/lane.h"
#include "ops/matmul.h"
#include "probe/probe.h"
#include "exec/runner.h"

namespace py = pybind11;

namespace sbrt {
namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
// A row as Python gives it: token, position, slot, branch, chain mask, tail mask.
using RowTuple = std::tuple<int32_t, int64_t, int64_t, int32_t, uint64_t, uint64_t>;

class LaneProbe {
 public:
  LaneProbe(std::shared_ptr<Model> model, const LaneShape& shape)
      : model_(std::move(model)),
        shape_(shape),
        lane_(model_->bind(shape)),
        runner_(shape.threads) {
    lane_->add_forward(with_logits_, &table_, true);
    lane_->add_forward(keys_only_, &table_, false);
  }

  void forward(int64_t head, const std::vector<RowTuple>& rows, int width, bool logits) {
    check_within("probe: rows", size_t{0}, static_cast<size_t>(shape_.max_rows), rows.size());
    check_within("probe: width", 1, shape_.threads, width);
    check_within("probe: head", int64_t{0}, std::numeric_limits<int64_t>::max() / 2, head);
    table_.head[0] = head;
    table_.n = static_cast<int32_t>(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) table_.row[i] = row_of(rows[i]);
    runner_.run(logits ? with_logits_ : keys_only_, width);
  }

  // Returns a copy of a slot's K or V, [layers, kv_heads, head_dim].
  py::array_t<float> read(int64_t slot, bool keys) {
    const RingShape& s = ring().shape();
    slot = checked(slot);
    py::array_t<float> out({s.layers, s.kv_heads, s.head_dim});
    for (int l = 0; l < s.layers; ++l)
      for (int h = 0; h < s.kv_heads; ++h)
        for (int i = 0; i < s.head_dim; ++i)
          *out.mutable_data(l, h, i) =
              keys ? ring().k(l, h, slot)[i * kKeyPanel] : ring().v(l, h, slot)[i];
    return out;
  }

  py::array_t<float> logits() {
    py::array_t<float> out({int64_t{table_.n}, int64_t{lane_->columns().n}});
    std::copy_n(lane_->logits(), out.size(), out.mutable_data());
    return out;
  }

  const RingShape& shape() const { return lane_->ring_shape(); }
  KvRing& ring() {
    check(lane_->ring() != nullptr, "probe: expected a lane with a ring of its own");
    return *lane_->ring();
  }
  int64_t checked(int64_t slot) {
    check_within("probe: slot", int64_t{0}, ring().shape().slots() - 1, slot);
    return slot;
  }

 private:
  Row row_of(const RowTuple& t) {
    const auto& [token, position, slot, branch, chain, tail] = t;
    check_within("probe: position", int64_t{0}, std::numeric_limits<int64_t>::max() / 2, position);
    check_within("probe: row slot", int64_t{-1}, shape().slots() - 1, slot);
    if (tail) {
      check_within("probe: branch", 0, shape_.branches - 1, branch);
      check_within("probe: tail slot", 0, shape_.tail_slots - 1, Mask::of(tail).last());
    }
    return {position,        token,         static_cast<int32_t>(slot), branch, -1, 0,
            Mask::of(chain), Mask::of(tail)};
  }

  std::shared_ptr<Model> model_;
  LaneShape shape_;
  std::unique_ptr<Lane> lane_;
  Batch table_{};
  Graph with_logits_{"probe.forward"}, keys_only_{"probe.keys"};
  Runner runner_;  // declared last, so that its threads end before the data that they read
};

}  // namespace

void bind_lane_probe(py::module_& m) {
  py::class_<LaneProbe>(m, "LaneProbe",
                        "One lane by itself. Slots are storage slots: `slot` and `tail` give them.")
      .def(py::init([](std::shared_ptr<Model> model, int64_t max_len, int32_t max_rows,
                       int32_t branches, int32_t tail_slots, int32_t threads, bool debug) {
             return std::make_unique<LaneProbe>(
                 std::move(model),
                 LaneShape{max_len, max_rows, branches, tail_slots, threads, debug});
           }),
           py::arg("model"), py::arg("max_len"), py::arg("max_rows"), py::arg("branches"),
           py::arg("tail_slots"), py::arg("threads"), py::arg("debug") = false)
      .def(
          "forward",
          [](LaneProbe& p, int64_t head, const std::vector<RowTuple>& rows, int width,
             bool logits) -> py::object {
            {
              const GilRelease nogil;
              p.forward(head, rows, width, logits);
            }
            return logits ? py::object(p.logits()) : py::none();
          },
          py::arg("head"), py::arg("rows"), py::arg("width") = 1, py::arg("logits") = true,
          "rows: (token, position, slot, branch, chain mask, tail mask) each; gives f32 logits "
          "[rows, vocab], or None without logits.")
      .def("slot", [](LaneProbe& p, int64_t position) { return p.shape().slot(0, position); })
      .def("tail", [](LaneProbe& p, int branch, int j) { return p.shape().tail(0, branch, j); })
      .def("move", [](LaneProbe& p, int64_t from,
                      int64_t to) { p.ring().move(p.checked(from), p.checked(to)); })
      .def("poison", [](LaneProbe& p, int64_t slot) { p.ring().poison(p.checked(slot)); })
      .def("k", [](LaneProbe& p, int64_t slot) { return p.read(slot, true); })
      .def("v", [](LaneProbe& p, int64_t slot) { return p.read(slot, false); })
      .def_property_readonly("slots", [](LaneProbe& p) { return p.shape().slots(); });
}

}  // namespace sbrt
