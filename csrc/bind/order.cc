#include "exec/order.h"

#include <pybind11/stl.h>

#include <memory>
#include <optional>

#include "bind/bind.h"
#include "bind/gil.h"
#include "core/check.h"
#include "state/parts.h"

namespace py = pybind11;

namespace sbrt {
namespace {

using Names = std::vector<std::string>;

Parts parts_of(const Names& names) {
  Parts parts;
  for (const std::string& name : names) {
    int part = 0;
    while (part < kParts && name != name_of(part)) ++part;
    check<InvalidInput>(part < kParts, "part: expected one of csrc/state/parts.h but got ", name);
    parts.bits |= uint64_t{1} << part;
  }
  return parts;
}

Names names_of(const OrderBook& book, const Parts& parts) {
  Names names;
  for (int part = 0; part < kMostParts; ++part)
    if (parts.has(part)) names.push_back(book.name_of(part));
  return names;
}

// Returns one tuple for each recorded command. For an op the tuple is (stream, name, reads, writes,
// bits of the seats). For a wait or a record it is (stream, "wait" | "record", event, value).
py::list ops_of(const OrderBook& book) {
  py::list out;
  for (const OrderBook::Op& op : book.ops()) {
    const std::string& stream = book.streams()[op.stream];
    if (op.kind == OrderBook::Kind::run) {
      out.append(py::make_tuple(stream, book.names()[op.name], names_of(book, op.effects.reads),
                                names_of(book, op.effects.writes), op.seats));
    } else {
      const bool waits = op.kind == OrderBook::Kind::wait;
      out.append(py::make_tuple(stream, waits ? "wait" : "record", book.events()[op.event].name,
                                op.value));
    }
  }
  return out;
}

// Returns a pair (stream, graph) for every launch.
py::list launches_of(const OrderBook& book) {
  py::list out;
  for (const OrderBook::Launch& launch : book.launches())
    out.append(py::make_tuple(book.streams()[launch.stream], book.names()[launch.name]));
  return out;
}

// Returns a tuple (stream, op, address of the picked graph) for every captured op.
py::list picks_of(const OrderBook& book) {
  py::list out;
  for (const OrderBook::Op& op : book.ops())
    if (op.graph)
      out.append(py::make_tuple(book.streams()[op.stream], book.names()[op.name],
                                reinterpret_cast<uintptr_t>(op.graph)));
  return out;
}

}  // namespace

void bind_order(py::module_& m) {
  py::class_<OrderBook, std::shared_ptr<OrderBook>>(
      m, "OrderBook", "Ops of streams and the events between them (csrc/exec/order.h).")
      .def(py::init([] { return std::make_shared<OrderBook>(part_table()); }))
      .def("stream", &OrderBook::stream, py::arg("name"), "A new stream's number; 0 is the host.")
      .def("event", &OrderBook::event, py::arg("name"), py::arg("initial") = 0)
      .def(
          "run",
          [](OrderBook& book, int stream, const std::string& name, const Names& reads,
             const Names& writes, std::optional<int> seat) {
            if (seat) check_within("seat", 0, kMostSeats - 1, *seat);
            book.run(stream, name.c_str(), {parts_of(reads), parts_of(writes)},
                     seat ? SeatSet{1} << *seat : kEverySeat);
          },
          py::arg("stream"), py::arg("name"), py::arg("reads"), py::arg("writes"),
          py::arg("seat") = py::none(), "An op of one seat, or of every seat.")
      .def("wait", &OrderBook::wait, py::arg("stream"), py::arg("event"), py::arg("value"))
      .def("record", &OrderBook::record, py::arg("stream"), py::arg("event"), py::arg("value"))
      .def("ops", &ops_of)
      .def("picks", &picks_of)
      .def("launches", &launches_of)
      .def("__len__", [](const OrderBook& book) { return book.ops().size(); })
      .def(
          "written_by",
          [](const OrderBook& book, int stream) { return names_of(book, book.written_by(stream)); },
          py::arg("stream"))
      .def("conflicts", &OrderBook::conflicts, py::arg("without") = Names{}, py::arg("host") = true,
           py::call_guard<GilRelease>(),
           "A sentence for each pair that nothing orders; `without`: events not waited for, "
           "and mail not sent; "
           "`host`: what the host waits for counts.");
}

}  // namespace sbrt
