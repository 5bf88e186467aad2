#include "model/recorded.h"

#include <pybind11/stl.h>

#include <atomic>
#include <thread>

#include "bind/bind.h"
#include "bind/gil.h"
#include "core/check.h"
#include "model/rope_table.h"

namespace py = pybind11;

namespace sbrt {
namespace {

using Held = std::shared_ptr<PyObject>;

// Returns a shared reference to a Python object. The last owner of the reference releases the
// object, in any thread. If the interpreter has ended by then, the object is never released.
Held hold(py::object object) {
  return {object.release().ptr(), [](PyObject* p) {
            if (!Py_IsInitialized()) return;
            const GilAcquire gil;
            Py_XDECREF(p);
          }};
}

// Returns the type and message of the error, without the traceback.
std::string said(const py::error_already_set& error) {
  const std::string all = error.what();
  return all.substr(0, all.find('\n'));
}

// Number of replays that run now. While the interpreter shuts down, it ends threads that ask for
// its lock, at any point of their work. So end_replays waits until no replay runs, and lets no new
// one begin.
std::atomic<int> replays{0};
std::atomic<bool> ended{false};

struct Replaying {
  Replaying() { ++replays; }
  ~Replaying() { --replays; }
  Replaying(const Replaying&) = delete;
};

void end_replays() {
  ended = true;
  const GilRelease free;
  while (replays > 0) std::this_thread::yield();
}

// Calls a recording, which is a Python function that runs a piece. Runs in a stream's worker
// thread, which has never held the interpreter's lock.
void replay(void* recording) {
  const Replaying counted;
  check(!ended, "lane: the interpreter has ended");
  const GilAcquire gil;
  try {
    py::handle(static_cast<PyObject*>(recording))();
  } catch (const py::error_already_set& error) {
    throw Error("lane: " + said(error));
  }
}

// Calls a player, which is a Python function that enqueues a piece's work (exec/captured.h). Runs
// in the host's thread, which enqueues on the lane's own stream.
void play(void* player, void* stream) {
  const GilAcquire gil;
  try {
    py::handle(static_cast<PyObject*>(player))(reinterpret_cast<uintptr_t>(stream));
  } catch (const py::error_already_set& error) {
    throw Error("lane: " + said(error));
  }
}

template <class T>
T get(const Held& object, const char* name) {
  return py::handle(object.get()).attr(name).cast<T>();
}

template <class T>
T* address(const Held& object, const char* name) {
  return reinterpret_cast<T*>(get<uintptr_t>(object, name));
}

uintptr_t number(const void* p) { return reinterpret_cast<uintptr_t>(p); }

// Calls the methods of a Python lane (sbrt/gpu), with the interpreter's lock held.
class PyRecorder final : public Recorder {
 public:
  PyRecorder(Held lane, const LaneShape& shape) : lane_(std::move(lane)) {
    memory_.ring = {.capacity = get<int64_t>(lane_, "capacity"),
                    .window = get<int64_t>(lane_, "window"),
                    .branches = shape.branches,
                    .tail_slots = shape.tail_slots,
                    .layers = get<int32_t>(lane_, "layers"),
                    .kv_heads = get<int32_t>(lane_, "kv_heads"),
                    .head_dim = get<int32_t>(lane_, "head_dim"),
                    .seats = shape.seats};
    check_equal("lane: slots", memory_.ring.slots(), get<int64_t>(lane_, "slots"));
    memory_.vocab = get<int32_t>(lane_, "vocab");
    memory_.hidden = get<int64_t>(lane_, "hidden");
    memory_.prefill_rows = get<int32_t>(lane_, "prefill_rows");
    memory_.logits = address<float>(lane_, "logits");
    memory_.dtype = dtype_from(get<std::string>(lane_, "dtype"));
    memory_.features = address<void>(lane_, "features");
    memory_.embed = address<void>(lane_, "embed");
    const RingShape& ring = memory_.ring;
    const auto slot = static_cast<size_t>(ring.head_dim * bytes_of(memory_.dtype));
    memory_.kv = {address<std::byte>(lane_, "kv"), slot, slot * ring.slots(),
                  size_t{2} * ring.layers * ring.kv_heads};
  }

  const LaneMemory& memory() const override { return memory_; }
  Pieces forward(const Batch* rows, bool with_logits) override {
    return all("forward", number(rows), with_logits);
  }
  Pieces choose(const ChooseArgs& a, ChoiceKind kind) override {
    const void* out = a.dist ? static_cast<const void*>(a.dist) : a.choice;
    const GilAcquire gil;
    py::object shaping = py::none();
    if (kind.shapes)
      shaping = py::make_tuple(number(a.dense.mask), number(a.dense.bias), number(a.dense.output),
                               number(a.dense.seen), a.dense.vocab, number(a.dense.words),
                               a.dense.words_room, number(a.dense.trunk), a.dense.trunk_room);
    const py::object where = py::make_tuple(number(a.rows), number(a.seats), number(out));
    py::object scores = py::none();
    if (a.kept.at) scores = py::make_tuple(number(a.kept.at), a.kept.rows);
    return all("choose", where, a.columns.n, a.dist != nullptr, kind.filters, shaping, scores);
  }
  Pieces moves(const Seats& seats, Moves which) override {
    const GilAcquire gil;
    const py::object where =
        py::make_tuple(number(seats.at), number(seats.roll), number(seats.ended));
    return all("moves", where, static_cast<int>(which));
  }

 private:
  // Calls a method of the Python lane and returns the recordings that the method made. This object
  // keeps the recordings alive.
  template <class... Args>
  Pieces all(const char* method, Args... args) {
    const GilAcquire gil;
    Pieces found;
    for (const py::handle piece : py::handle(lane_.get()).attr(method)(args...)) {
      const Held replays = kept_.emplace_back(hold(piece.attr("replay")));
      Piece& made = found.emplace_back();
      made.rows = piece.attr("rows").cast<int32_t>();
      made.nodes = piece.attr("nodes").cast<int32_t>();
      made.replay = &replay;
      made.recording = replays.get();
      made.graph = reinterpret_cast<void*>(piece.attr("graph").cast<uintptr_t>());
      if (const py::object player = piece.attr("play"); !player.is_none()) {
        made.graph = kept_.emplace_back(hold(player)).get();
        made.play = &play;
      }
      kept_.push_back(hold(py::reinterpret_borrow<py::object>(piece)));
    }
    return found;
  }

  Held lane_;
  LaneMemory memory_;
  std::vector<Held> kept_;
};

std::unique_ptr<Recorder> bind_lane(const Held& bind, const LaneShape& s) {
  const GilAcquire gil;
  py::object lane = py::handle(bind.get())(
      py::arg("max_len") = s.max_len, py::arg("max_rows") = s.max_rows,
      py::arg("branches") = s.branches, py::arg("tail_slots") = s.tail_slots,
      py::arg("debug") = s.debug, py::arg("features") = s.features,
      py::arg("on_device") = s.on_device, py::arg("stream") = number(s.stream),
      py::arg("seats") = s.seats, py::arg("scores") = s.scores);
  return std::make_unique<PyRecorder>(hold(std::move(lane)), s);
}

std::shared_ptr<RecordedModel> make_model(int vocab, int64_t max_positions, int64_t longest,
                                          py::object bind, const std::vector<int32_t>& head_ids) {
  return std::make_shared<RecordedModel>(
      vocab, max_positions, longest, head_ids,
      [held = hold(std::move(bind))](const LaneShape& shape) { return bind_lane(held, shape); });
}

}  // namespace

void bind_recorded(py::module_& m) {
  py::module_::import("atexit").attr("register")(py::cpp_function(&end_replays));
  py::class_<RecordedModel, Model, std::shared_ptr<RecordedModel>>(
      m, "RecordedModel", py::dynamic_attr(),
      "A model whose lanes replay what Python recorded (sbrt/gpu/lane.py).")
      .def(py::init(&make_model), py::kw_only(), py::arg("vocab"), py::arg("max_positions"),
           py::arg("longest"), py::arg("bind"), py::arg("head_ids") = std::vector<int32_t>{});
  m.def(
      "inverse_frequencies",
      [](int64_t head_dim, double theta, const RopeScaling& scaling) {
        check_within("head_dim", int64_t{2}, int64_t{1} << 16, head_dim);
        check_rope(scaling, theta, head_dim);
        const Buffer<float> found = inverse_frequencies(head_dim, theta, scaling);
        return std::vector<float>(found.data(), found.data() + found.size());
      },
      py::arg("head_dim"), py::arg("theta"), py::arg("scaling"),
      "[head_dim / 2] f32: how far each pair of a head turns from one position to the next.");
}

}  // namespace sbrt
