#include "decode/costs.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <memory>

#include "bind/bind.h"
#include "core/check.h"

namespace py = pybind11;

namespace sbrt {
namespace {

using Column = std::vector<int64_t>;  // [i]: cost of a forward over i + 1 rows, in ns

// Longest accepted time of a forward or round, in ns: two weeks.
constexpr int64_t kMost = int64_t{1} << 50;

CostTable table_of(const char* name, const Column& ns) {
  check_equal(name, static_cast<size_t>(kCostRows), ns.size());
  CostTable table{};
  for (const int64_t cost : ns) check_within(name, int64_t{0}, kMost, cost);
  std::copy(ns.begin(), ns.end(), table.begin() + 1);
  return table;
}

std::shared_ptr<Costs> make_costs(const Column& target, const Column& draft,
                                  const Column& target_overlapped, const Column& draft_overlapped,
                                  int64_t round_ns, int64_t turns_ns, int64_t side_by_side_ns) {
  check_within("round_ns", int64_t{0}, kMost, round_ns);
  check_within("turns_ns", int64_t{0}, kMost, turns_ns);
  check_within("side_by_side_ns", int64_t{0}, kMost, side_by_side_ns);
  return std::make_shared<Costs>(Costs{{table_of("target", target), table_of("draft", draft)},
                                       {table_of("target_overlapped", target_overlapped),
                                        table_of("draft_overlapped", draft_overlapped)},
                                       round_ns,
                                       turns_ns,
                                       side_by_side_ns});
}

Column column(const CostTable& table) { return {table.begin() + 1, table.end()}; }

}  // namespace

void bind_costs(py::module_& m) {
  m.attr("MAX_ROWS") = kCostRows;
  py::class_<Costs, std::shared_ptr<Costs>>(
      m, "Costs", "Virtual ns of forwards of 1 .. MAX_ROWS rows (csrc/decode/costs.h).")
      .def(py::init(&make_costs), py::kw_only(), py::arg("target"), py::arg("draft"),
           py::arg("target_overlapped"), py::arg("draft_overlapped"), py::arg("round_ns") = 0,
           py::arg("turns_ns") = 0, py::arg("side_by_side_ns") = 0)
      .def_property_readonly("target", [](const Costs& c) { return column(c.alone.target); })
      .def_property_readonly("draft", [](const Costs& c) { return column(c.alone.draft); })
      .def_property_readonly("target_overlapped",
                             [](const Costs& c) { return column(c.overlapped.target); })
      .def_property_readonly("draft_overlapped",
                             [](const Costs& c) { return column(c.overlapped.draft); })
      .def_readonly("round_ns", &Costs::round)
      .def_readonly("turns_ns", &Costs::turns)
      .def_readonly("side_by_side_ns", &Costs::side_by_side);
}

}  // namespace sbrt
