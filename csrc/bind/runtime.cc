#include "spec/engine.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>

#include "bind/bind.h"
#include "bind/gil.h"
#include "core/check.h"
#include "exec/order.h"

namespace py = pybind11;

namespace sbrt {
namespace {

using Entry = std::tuple<std::string, std::string, int64_t, int64_t, bool>;

std::vector<Entry> trace_of(Engine& runtime, int64_t since_ns) {
  std::vector<Entry> out;
  {
    const GilRelease free;
    runtime.idle(0);  // a stream that runs writes its trace
  }
  const auto put = [&out, since_ns](const char* stream, const Trace& trace) {
    for (const TraceEvent& e : trace.events(since_ns))
      out.emplace_back(stream, e.name, e.begin, e.end, e.wait);
  };
  if (runtime.target_trace()) put("target", *runtime.target_trace());
  if (runtime.draft_trace()) put("draft", *runtime.draft_trace());
  return out;
}

std::vector<std::tuple<int64_t, int, int, int, bool, int>> rounds_of(const Engine& runtime) {
  std::vector<std::tuple<int64_t, int, int, int, bool, int>> out;
  for (const RoundEntry& e : runtime.sequence().log().entries())
    out.emplace_back(e.round, e.depth, e.n, e.branches, e.hit, e.tokens);
  return out;
}

py::object finish_reason(const Engine& r) {
  switch (r.sequence().finish()) {
    case Finish::stop:
      return py::str("stop");
    case Finish::length:
      return py::str("length");
    case Finish::error:
      return py::str("error");
    default:
      return py::none();
  }
}

// Its threads may want the interpreter's lock before they end. A fork keeps what it has: at the fork a
// thread that did not come along may have been changing any of it.
void drop(Engine* runtime) {
  if (runtime->is_forked()) return;
  const bool held = Py_IsInitialized() && PyGILState_Check();
  std::optional<GilRelease> free;
  if (held) free.emplace();
  delete runtime;
}

Body body_named(const std::string& name) {
  if (name == "cpu") return Body::cpu;
  if (name == "sim") return Body::sim;
  if (name == "dry") return Body::dry;
  if (name == "dry_cuda") return Body::dry_cuda;
  check<InvalidInput>(name == "cuda", "body: expected cpu, sim, dry, dry_cuda or cuda but got ",
                      name);
  return Body::cuda;
}

std::shared_ptr<Engine> make_runtime(std::shared_ptr<Model> target, std::shared_ptr<Model> draft,
                                     int64_t max_model_len, int32_t num_threads,
                                     int32_t draft_threads, int32_t max_gamma, int32_t max_branches,
                                     int32_t max_width, const std::string& body, bool debug,
                                     int32_t vocab, int64_t first_round, std::vector<int32_t> holes,
                                     std::shared_ptr<Costs> costs, std::shared_ptr<Hrad> hrad,
                                     bool keep_features, bool rejection, std::vector<Policy> tuned,
                                     int32_t device, bool draft_first, bool nvtx) {
  RuntimeConfig c;
  c.body = body_named(body);
  c.max_model_len = max_model_len;
  c.vocab = vocab;
  c.holes = std::move(holes);
  c.num_threads = num_threads;
  c.draft_threads = draft_threads;
  c.max_gamma = max_gamma;
  c.max_branches = max_branches;
  c.max_width = max_width;
  c.first_round = first_round;
  c.debug = debug;
  c.costs = std::move(costs);
  c.hrad = std::move(hrad);
  c.keep_features = keep_features;
  c.tuned = std::move(tuned);
  c.rejection = rejection;
  c.device = device;
  c.draft_first = draft_first;
  c.nvtx = nvtx;
  const GilRelease free;  // it times forwards
  return {new Engine(target, draft, c), &drop};
}

void begin(Engine& runtime, std::vector<int32_t> prompt, const Sampling& sampling,
           const Policy* policy, int64_t max_tokens, std::vector<int32_t> stop_tokens,
           const ShapingRequest& shaping) {
  const Request request{std::move(prompt),
                        sampling,
                        policy ? *policy : Policy{},
                        max_tokens,
                        std::move(stop_tokens),
                        shaping,
                        policy == nullptr};
  const GilRelease free;
  runtime.begin(request);
}

const std::vector<int32_t>& run(Engine& runtime, int64_t max_rounds, double seconds) {
  {
    const GilRelease free;
    runtime.run(max_rounds, seconds);
  }
  return runtime.take();
}

std::vector<std::pair<int64_t, double>> tuned_of(const Engine& runtime) {
  std::vector<std::pair<int64_t, double>> out;
  if (!runtime.tuner()) return out;
  for (const Tuner::Arm& arm : runtime.tuner()->arms())
    out.emplace_back(arm.rounds, arm.hopeless ? 0.0 : arm.rate * 1e9);
  return out;
}

void bind_stats(py::module_& m) {
  py::class_<Stats>(m, "Stats", "Counters of one sequence (csrc/spec/stats.h).")
      .def_readonly("rounds", &Stats::rounds)
      .def_readonly("rounds_ahead", &Stats::rounds_ahead)
      .def_readonly("draft_tokens", &Stats::draft_tokens)
      .def_readonly("accepted", &Stats::accepted)
      .def_property_readonly("rollback_tokens", &Stats::rollback_tokens)
      .def_readonly("branches", &Stats::branches)
      .def_readonly("branch_rounds", &Stats::branch_rounds)
      .def_readonly("branch_hits", &Stats::branch_hits)
      .def_readonly("discarded_branch_tokens", &Stats::discarded_branch_tokens)
      .def_readonly("draft_limit_rounds", &Stats::draft_limit_rounds)
      .def_readonly("empty_residuals", &Stats::empty_residuals)
      .def_readonly("prefill_ns", &Stats::prefill_ns)
      .def_readonly("decode_ns", &Stats::decode_ns)
      .def_property_readonly("histogram", [](const Stats& s) {
        return std::vector<int64_t>(s.histogram, s.histogram + kSlots);
      });
}

using RuntimeClass = py::class_<Engine, std::shared_ptr<Engine>>;

// A sequence, from its request to its last round.
void bind_sequence(RuntimeClass& runtime) {
  runtime
      .def("begin", &begin, py::arg("prompt_ids"), py::arg("sampling"),
           py::arg("policy").none(true), py::arg("max_tokens"),
           py::arg("stop_token_ids") = std::vector<int32_t>{},
           py::arg("shaping") = ShapingRequest{})
      .def("run", &run, py::arg("max_rounds") = 0, py::arg("seconds") = 0.0)
      .def("advance", &Engine::run, py::arg("max_rounds") = 0, py::arg("seconds") = 0.0,
           py::call_guard<GilRelease>())
      .def("take", &Engine::take)
      .def_property_readonly("prefilled_tokens", &Engine::prefilled_tokens)
      .def("idle", &Engine::idle, py::arg("seconds") = 0.0, py::call_guard<GilRelease>())
      .def("check_usable", &Engine::check_usable)
      .def("end", &Engine::end)
      .def("close", &Engine::close, py::call_guard<GilRelease>())
      .def("interrupt", &Engine::interrupt);
}

// The state of the current sequence.
void bind_state(RuntimeClass& runtime) {
  runtime.def_property_readonly("finished", [](const Engine& r) { return !r.sequence().live(); })
      .def_property_readonly("finish_reason", &finish_reason)
      .def_property_readonly("stop_token",
                             [](const Engine& r) -> py::object {
                               if (r.sequence().stop_token() < 0) return py::none();
                               return py::int_(r.sequence().stop_token());
                             })
      .def_property_readonly("error",
                             [](const Engine& r) -> py::object {
                               if (r.sequence().error().empty()) return py::none();
                               return py::str(r.sequence().error());
                             })
      .def_property_readonly("stats", [](const Engine& r) { return r.sequence().stats(); });
}

// What is measured, and what was enqueued.
void bind_records(RuntimeClass& runtime) {
  runtime
      .def(
          "measure",
          [](Engine& r, double seconds, float temperature) {
            return std::make_shared<Costs>(r.measure(seconds, temperature));
          },
          py::arg("seconds"), py::arg("temperature") = 0.0f, py::call_guard<GilRelease>())
      .def_property_readonly("tuned", &tuned_of,
                             "[(rounds, tokens per second expected)] of each policy that may be "
                             "chosen, of the last sequence.")
      .def("features",
           [](const Engine& r) {
             const std::vector<float> x = r.features();
             return py::array_t<float>(static_cast<py::ssize_t>(x.size()), x.data());
           })
      .def_property_readonly("now_ns", &Engine::now)
      .def_property_readonly(
          "order",
          [](const Engine& r) {
            check<InvalidInput>(r.order() != nullptr, "order: expected a runtime of the dry body");
            return std::make_shared<OrderBook>(*r.order());
          },
          "All that the dry body was given so far, a copy.")
      .def("keep_trace", &Engine::keep_trace, py::arg("is_on"), py::call_guard<GilRelease>())
      .def("profile", &Engine::profile, py::arg("is_on"), py::call_guard<GilRelease>())
      .def("trace", &trace_of, py::arg("since_ns") = 0,
           "[(stream, name, begin_ns, end_ns, is_wait)] begun since then, oldest first.")
      .def("rounds", &rounds_of,
           "[(round, depth, n, branches, hit, tokens)] of the last sequence, oldest first; of a "
           "long one the last 4096.");
}

}  // namespace

void bind_runtime(py::module_& m) {
  bind_stats(m);
  RuntimeClass runtime(m, "Runtime", "Two lanes and one sequence at a time (csrc/spec/engine.h).");
  runtime
      .def(py::init(&make_runtime), py::arg("target"), py::arg("draft").none(true), py::kw_only(),
           py::arg("max_model_len"), py::arg("num_threads") = 1, py::arg("draft_threads") = 1,
           py::arg("max_gamma") = 4, py::arg("max_branches") = 8, py::arg("max_width") = 1,
           py::arg("body") = "cpu", py::arg("debug") = false, py::arg("vocab") = 0,
           py::arg("first_round") = 1, py::arg("holes") = std::vector<int32_t>{},
           py::arg("costs").none(true) = py::none(), py::arg("hrad").none(true) = py::none(),
           py::arg("keep_features") = false, py::arg("rejection") = false,
           py::arg("tuned") = std::vector<Policy>{}, py::arg("device") = 0,
           py::arg("draft_first") = true, py::arg("nvtx") = false)
      .def("prepare", &Engine::prepare, py::arg("policy"))
      .def_property_readonly("fused_graphs", &Engine::fused_graphs);
  bind_sequence(runtime);
  bind_state(runtime);
  bind_records(runtime);
}

}  // namespace sbrt
