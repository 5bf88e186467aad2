#include "round/accept_op.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <vector>

#include "core/check.h"
#include "probe/probe.h"

namespace py = pybind11;

namespace sbrt {
namespace {

using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;
using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

// A Place (the distributions at one node) that owns its memory.
class PlaceProbe {
 public:
  PlaceProbe(const Doubles& p, const Doubles& q)
      : p_(p.data(), p.data() + p.size()), q_(q.data(), q.data() + q.size()) {
    check_within("place: tokens", py::ssize_t{1}, py::ssize_t{1} << 30, p.size());
    check_equal("place: tokens of q", p.size(), q.size());
  }
  Place place() { return {static_cast<int32_t>(p_.size()), p_.data(), q_.data()}; }
  int32_t token(int32_t token) const {
    check_within("place: token", 0, static_cast<int32_t>(p_.size()) - 1, token);
    return token;
  }
  Doubles p() const { return of(p_); }
  Doubles q() const { return of(q_); }
  AcceptScratch scratch{};

 private:
  static Doubles of(const std::vector<double>& dist) {
    return Doubles(static_cast<py::ssize_t>(dist.size()), dist.data());
  }

  std::vector<double> p_, q_;
};

}  // namespace

void bind_accept(py::module_& m) {
  py::class_<PlaceProbe>(m, "Place",
                         "Probabilities p and q [vocab] at a node, as rejection changes them "
                         "(csrc/round/accept_op.h).")
      .def(py::init<const Doubles&, const Doubles&>(), py::arg("p"), py::arg("q"))
      .def_property_readonly("p", &PlaceProbe::p)
      .def_property_readonly("q", &PlaceProbe::q)
      .def("accepts",
           [](PlaceProbe& s, int32_t t, double u) { return accepts(s.place(), s.token(t), u); })
      .def("reject", [](PlaceProbe& s,
                        int32_t t) { return reject(s.place(), s.token(t), s.scratch, Alone{}); })
      .def("reject_known",
           [](PlaceProbe& s, int32_t t) {
             return reject_known(s.place(), s.token(t), s.scratch, Alone{});
           })
      .def("draw", [](PlaceProbe& s, double u) {
        return draw_from(s.place().p, s.place().vocab, u, s.scratch, Alone{});
      });
  m.def(
      "softmax_of",
      [](const Floats& scores, const std::vector<int32_t>& ids, int32_t vocab) {
        const auto n = static_cast<int32_t>(scores.size());
        check_within("softmax: vocab", 1, 1 << 30, vocab);
        check_within("softmax: scores", 1, vocab, n);
        for (const int32_t id : ids) check_within("softmax: id", 0, vocab - 1, id);
        if (!ids.empty()) check_equal("softmax: ids", int64_t{n}, std::ssize(ids));
        std::vector<double> dist(vocab);
        AcceptScratch scratch;
        const Place place{vocab, dist.data(), nullptr};
        softmax_of(scores.data(), ids.empty() ? nullptr : ids.data(), n, place, place.p, scratch,
                   Alone{});
        return Doubles(vocab, dist.data());
      },
      py::arg("scores"), py::arg("ids"), py::arg("vocab"),
      "The softmax [vocab] in double of scores [n] f32; score i is that of token ids[i].");
}

}  // namespace sbrt
