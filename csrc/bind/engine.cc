#include "decode/engine.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>

#include "bind/bind.h"
#include "bind/fields.h"
#include "bind/gil.h"
#include "core/check.h"
#include "exec/order.h"

namespace py = pybind11;

namespace sbrt {
namespace {

using Entry = std::tuple<std::string, std::string, int64_t, int64_t, bool>;

std::vector<Entry> trace_of(Engine& engine, int64_t since_ns) {
  std::vector<Entry> out;
  {
    const GilRelease free;
    engine.idle(0);  // wait, because a running stream still writes its trace
  }
  const auto put = [&out, since_ns](const char* stream, const Trace& trace) {
    for (const TraceEvent& e : trace.events(since_ns))
      out.emplace_back(stream, e.name, e.begin, e.end, e.wait);
  };
  if (engine.target_trace()) put("target", *engine.target_trace());
  if (engine.draft_trace()) put("draft", *engine.draft_trace());
  return out;
}

// The Python object for a seat. It reports on the request that currently has the seat.
struct SeatView {
  std::shared_ptr<Engine> engine;
  int seat;

  const HostSequence& sequence() const { return engine->sequence(seat); }
};

std::vector<std::tuple<int64_t, int, int, int, bool, int>> rounds_of(const SeatView& view) {
  std::vector<std::tuple<int64_t, int, int, int, bool, int>> out;
  for (const RoundEntry& e : view.sequence().log().entries())
    out.emplace_back(e.round, e.depth, e.n, e.branches, e.hit, e.tokens);
  return out;
}

py::object finish_reason(const SeatView& view) {
  switch (view.sequence().finish()) {
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

// Releases the interpreter's lock and deletes an engine. The engine's threads may need the lock
// before they can end. In a forked child it deletes nothing, because threads that exist only in the
// parent may have been changing the engine.
void drop(Engine* engine) {
  if (engine->is_forked()) return;
  const bool held = Py_IsInitialized() && PyGILState_Check();
  std::optional<GilRelease> free;
  if (held) free.emplace();
  delete engine;
}

RuntimeConfig config_of(const py::kwargs& given) {
  return with_fields(RuntimeConfig{}, "RuntimeConfig", given);
}

std::shared_ptr<Engine> make_engine(std::shared_ptr<Model> target, std::shared_ptr<Model> draft,
                                    const RuntimeConfig& config) {
  // The constructor may measure how long forwards take, which is slow. Without the GIL other Python
  // threads can run meanwhile.
  const GilRelease free;
  return {new Engine(std::move(target), std::move(draft), config), &drop};
}

Request request_of(std::vector<int32_t> prompt, const Sampling& sampling, const Policy* policy,
                   int64_t max_tokens, std::vector<int32_t> stop_tokens,
                   const ShapingRequest& shaping, const LogprobRequest& logprobs) {
  return {std::move(prompt),      sampling, policy ? *policy : Policy{}, max_tokens,
          std::move(stop_tokens), shaping,  policy == nullptr,           logprobs};
}

void begin(Engine& engine, std::vector<int32_t> prompt, const Sampling& sampling,
           const Policy* policy, int64_t max_tokens, std::vector<int32_t> stop_tokens,
           const ShapingRequest& shaping, const LogprobRequest& logprobs) {
  const Request request = request_of(std::move(prompt), sampling, policy, max_tokens,
                                     std::move(stop_tokens), shaping, logprobs);
  const GilRelease free;
  engine.begin(request);
}

SeatView admit(const std::shared_ptr<Engine>& engine, std::vector<int32_t> prompt,
               const Sampling& sampling, const Policy* policy, int64_t max_tokens,
               std::vector<int32_t> stop_tokens, const ShapingRequest& shaping,
               const LogprobRequest& logprobs) {
  const Request request = request_of(std::move(prompt), sampling, policy, max_tokens,
                                     std::move(stop_tokens), shaping, logprobs);
  const GilRelease free;
  return {engine, engine->admit(request)};
}

const std::vector<int32_t>& run(Engine& engine, int64_t max_rounds, double seconds) {
  {
    const GilRelease free;
    engine.run(max_rounds, seconds);
  }
  return engine.take(0);
}

std::vector<std::pair<int64_t, double>> tuned_of(const SeatView& view) {
  std::vector<std::pair<int64_t, double>> out;
  const Tuner* tuner = view.engine->tuner(view.seat);
  if (!tuner) return out;
  for (const Tuner::Arm& arm : tuner->arms())
    out.emplace_back(arm.rounds, arm.hopeless ? 0.0 : arm.rate * 1e9);
  return out;
}

// Returns arrays of tokens, ranks and log-probs, each [positions, width].
py::tuple arrays_of(const TokenLogprob* entries, int64_t positions, int64_t width) {
  const py::array::ShapeContainer shape{positions, width};
  py::array_t<int32_t> token(shape), rank(shape);
  py::array_t<float> logprob(shape);
  for (int64_t i = 0; i < positions * width; ++i) {
    token.mutable_data()[i] = entries[i].token;
    rank.mutable_data()[i] = entries[i].rank;
    logprob.mutable_data()[i] = entries[i].logprob;
  }
  return py::make_tuple(token, rank, logprob);
}

py::tuple take_logprobs(const SeatView& view) {
  LogprobStore& store = view.engine->logprobs(view.seat);
  const std::vector<TokenLogprob>& taken = store.take();
  const int64_t width = store.width();
  return arrays_of(taken.data(), width ? static_cast<int64_t>(taken.size()) / width : 0, width);
}

py::tuple prompt_logprobs_of(const SeatView& view) {
  const LogprobList& list = view.engine->logprobs(view.seat).prompt();
  if (list.top < 0) return arrays_of(nullptr, 0, 0);
  return arrays_of(list.entries + list.width(), list.kept - 1, list.width());
}

void bind_stats(py::module_& m) {
  py::class_<Stats>(m, "Stats", "Counters of one sequence (csrc/decode/stats.h).")
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
      .def_readonly("reused", &Stats::reused)
      .def_readonly("prefill_ns", &Stats::prefill_ns)
      .def_readonly("decode_ns", &Stats::decode_ns)
      .def_property_readonly("histogram", [](const Stats& s) {
        return std::vector<int64_t>(s.histogram, s.histogram + kSlots);
      });
}

using EngineCoreClass = py::class_<Engine, std::shared_ptr<Engine>>;

py::object stop_token(const SeatView& view) {
  const int32_t token = view.sequence().stop_token();
  return token < 0 ? py::object(py::none()) : py::object(py::int_(token));
}

py::object error_of(const SeatView& view) {
  const std::string& error = view.sequence().error();
  return error.empty() ? py::object(py::none()) : py::object(py::str(error));
}

void bind_seat(py::module_& m) {
  py::class_<SeatView>(m, "Seat", "A place for a sequence, and how it goes there.")
      .def_readonly("number", &SeatView::seat)
      .def_property_readonly("finished", [](const SeatView& v) { return !v.sequence().live(); })
      .def_property_readonly("finish_reason", &finish_reason)
      .def_property_readonly("stop_token", &stop_token)
      .def_property_readonly("error", &error_of)
      .def_property_readonly("stats", [](const SeatView& v) { return v.sequence().stats(); })
      .def_property_readonly("prefilled_tokens",
                             [](const SeatView& v) { return v.engine->prefilled_tokens(v.seat); })
      .def_property_readonly("tuned", &tuned_of,
                             "[(rounds, tokens per second expected)] of each policy that may be "
                             "chosen, of the last sequence.")
      .def(
          "take", [](const SeatView& v) { return v.engine->take(v.seat); },
          "The tokens committed since the last take().")
      .def("take_logprobs", &take_logprobs,
           "(tokens, ranks, log-probs), each [tokens since the last take_logprobs(), 1 + top]: the "
           "token that came, then the most likely; token -1 where there are fewer.")
      .def("prompt_logprobs", &prompt_logprobs_of,
           "The same of the prompt's tokens but the first, after the sequence's first token.")
      .def(
          "release", [](const SeatView& v) { v.engine->release(v.seat); },
          "Drops its sequence, and others may have the seat.")
      .def("features",
           [](const SeatView& v) {
             const std::vector<float> x = v.engine->features(v.seat);
             return py::array_t<float>(static_cast<py::ssize_t>(x.size()), x.data());
           })
      .def("rounds", &rounds_of,
           "[(round, depth, n, branches, hit, tokens)] of the last sequence, oldest first; of a "
           "long one the last 4096.");
}

// Binds the methods that start, run and end sequences.
void bind_sequences(EngineCoreClass& engine) {
  const auto shaping = ShapingRequest{};
  const auto logprobs = LogprobRequest{};
  const auto stops = std::vector<int32_t>{};
  engine
      .def("begin", &begin, py::arg("prompt_ids"), py::arg("sampling"),
           py::arg("policy").none(true), py::arg("max_tokens"), py::arg("stop_token_ids") = stops,
           py::arg("shaping") = shaping, py::arg("logprobs") = logprobs)
      .def("admit", &admit, py::arg("prompt_ids"), py::arg("sampling"),
           py::arg("policy").none(true), py::arg("max_tokens"), py::arg("stop_token_ids") = stops,
           py::arg("shaping") = shaping, py::arg("logprobs") = logprobs,
           "Starts a sequence next to the others; returns its Seat.")
      .def_property_readonly("has_free_seat", &Engine::has_free_seat)
      .def_property_readonly("seats", &Engine::seats)
      .def("seat",
           [](const std::shared_ptr<Engine>& r, int seat) {
             static_cast<void>(r->sequence(seat));
             return SeatView{r, seat};
           })
      .def("run", &run, py::arg("max_rounds") = 0, py::arg("seconds") = 0.0)
      .def("advance", &Engine::run, py::arg("max_rounds") = 0, py::arg("seconds") = 0.0,
           py::call_guard<GilRelease>())
      .def("idle", &Engine::idle, py::arg("seconds") = 0.0, py::call_guard<GilRelease>())
      .def("check_usable", &Engine::check_usable)
      .def("end", &Engine::end)
      .def("close", &Engine::close, py::call_guard<GilRelease>())
      .def("interrupt", &Engine::interrupt);
}

// Binds the methods for measurements, for traces, and for the record of all enqueued work.
void bind_records(EngineCoreClass& engine) {
  engine
      .def(
          "measure",
          [](Engine& r, double seconds, float temperature) {
            return std::make_shared<Costs>(r.measure(seconds, temperature));
          },
          py::arg("seconds"), py::arg("temperature") = 0.0f, py::call_guard<GilRelease>())
      .def_property_readonly("now_ns", &Engine::now)
      .def_property_readonly(
          "order",
          [](const Engine& r) {
            check<InvalidInput>(r.order() != nullptr,
                                "order: expected an engine of the dry backend");
            return std::make_shared<OrderBook>(*r.order());
          },
          "All that the dry backend was given so far, a copy.")
      .def("keep_trace", &Engine::keep_trace, py::arg("is_on"), py::call_guard<GilRelease>())
      .def("profile", &Engine::profile, py::arg("is_on"), py::call_guard<GilRelease>())
      .def("trace", &trace_of, py::arg("since_ns") = 0,
           "[(stream, name, begin_ns, end_ns, is_wait)] begun since then, oldest first.");
}

void bind_config(py::module_& m) {
  using C = RuntimeConfig;
  py::class_<C>(m, "RuntimeConfig", "What an engine is made with (csrc/decode/config.h).")
      .def(py::init(&config_of))
      .def_readwrite("max_model_len", &C::max_model_len)
      .def_readwrite("vocab", &C::vocab)
      .def_readwrite("holes", &C::holes)
      .def_readwrite("num_threads", &C::num_threads)
      .def_readwrite("draft_threads", &C::draft_threads)
      .def_readwrite("target_cores", &C::target_cores)
      .def_readwrite("draft_cores", &C::draft_cores)
      .def_readwrite("max_gamma", &C::max_gamma)
      .def_readwrite("max_branches", &C::max_branches)
      .def_readwrite("max_width", &C::max_width)
      .def_readwrite("max_num_seqs", &C::max_num_seqs)
      .def_readwrite("max_piece", &C::max_piece)
      .def_readwrite("reuses_prefixes", &C::reuses_prefixes)
      .def_readwrite("first_round", &C::first_round)
      .def_property(
          "backend", [](const C& c) { return name_of(c.backend); },
          [](C& c, const std::string& name) { c.backend = backend_named(name); })
      .def_readwrite("device", &C::device)
      .def_readwrite("draft_device", &C::draft_device)
      .def_readwrite("draft_first", &C::draft_first)
      .def_readwrite("nvtx", &C::nvtx)
      .def_readwrite("debug", &C::debug)
      .def_property(
          "costs", [](const C& c) { return std::const_pointer_cast<Costs>(c.costs); },
          [](C& c, std::shared_ptr<Costs> costs) { c.costs = std::move(costs); })
      .def_property(
          "tuning", [](const C& c) { return std::const_pointer_cast<Costs>(c.tuning); },
          [](C& c, std::shared_ptr<Costs> costs) { c.tuning = std::move(costs); })
      .def_readwrite("tuned", &C::tuned)
      .def_property(
          "hrad", [](const C& c) { return std::const_pointer_cast<Hrad>(c.hrad); },
          [](C& c, std::shared_ptr<Hrad> hrad) { c.hrad = std::move(hrad); })
      .def_readwrite("keep_features", &C::keep_features)
      .def_readwrite("rejection", &C::rejection);
}

}  // namespace

void bind_engine(py::module_& m) {
  bind_stats(m);
  bind_config(m);
  bind_seat(m);
  EngineCoreClass engine(m, "EngineCore", "Two lanes and their sequences (csrc/decode/engine.h).");
  engine
      .def(py::init(&make_engine), py::arg("target"), py::arg("draft").none(true),
           py::arg("config"))
      .def(py::init([](std::shared_ptr<Model> target, std::shared_ptr<Model> draft,
                       const py::kwargs& fields) {
             return make_engine(std::move(target), std::move(draft), config_of(fields));
           }),
           py::arg("target"), py::arg("draft").none(true))
      .def("prepare", &Engine::prepare, py::arg("policy"))
      .def_property_readonly("fused_graphs", &Engine::fused_graphs);
  bind_sequences(engine);
  bind_records(engine);
}

}  // namespace sbrt
