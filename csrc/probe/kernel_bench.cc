// Times every op of a lane's forward while the whole forward runs. Also measures the peak rates of
// the machine.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <typeinfo>

#include "bind/gil.h"
#include "model/lane.h"
#include "ops/attention.h"
#include "ops/choose.h"
#include "ops/matmul.h"
#include "ops/residual.h"
#include "ops/rope.h"
#include "probe/probe.h"
#include "exec/runner.h"

namespace py = pybind11;

namespace sbrt {
namespace {

// The least number of bytes and of operations that an op needs.
struct Cost {
  std::string name, shape;
  // `bytes` is the number of all bytes, `weights` the number of bytes of weights among them.
  double bytes = 0, weights = 0, flops = 0;
  bool is_integer = false;  // true if `flops` counts integer operations
};

// Returns the arguments of a node if their type is Args, else null. It compares types, because
// functions of `sbrt._core` and of this module have different addresses.
template <class Args>
const Args* args_of(const Graph::Node& node) {
  return *node.kind == typeid(Args) ? reinterpret_cast<const Args*>(node.args) : nullptr;
}

constexpr double kFloat = sizeof(float);

Cost cost_of(const MatmulArgs& a, double rows) {
  const PackedMatrix& w = *a.weights;
  const double in = static_cast<double>(w.in()), out = static_cast<double>(w.out());
  const double read = static_cast<double>(w.bytes());
  const double written = w.gated() ? out / 2 : out;
  return {sentence(a.norm.weight ? "norm + " : "", "matmul", w.gated() ? " + gate" : "",
                   a.add ? " + add" : ""),
          sentence(w.in(), " -> ", w.out()),
          read + kFloat * rows * (in + written),
          read,
          2 * rows * in * out,
          a.integers.kernels && w.quantised()};
}

Cost cost_of(const AttentionArgs& a, double rows) {
  const RingShape& s = a.ring->shape();
  double seen = 0, most = 0;
  for (int i = 0; i < a.rows->n; ++i) {
    seen += static_cast<double>(a.visible[i].keys);
    most = std::max(most, static_cast<double>(a.visible[i].keys));
  }
  const double d = s.head_dim;
  return {"attention", sentence(a.heads, " x ", s.head_dim, ", ", s.kv_heads, " kv heads"),
          kFloat * d * (2 * most * s.kv_heads + 2 * rows * a.heads), 0, 4 * seen * d * a.heads};
}

Cost cost_of(const ProjectArgs& a, double rows) {
  Cost cost = cost_of(a.matmul, rows);
  cost.name += " + rope + kv";
  return cost;
}

Cost cost_of_choice(const Graph::Node& node, const ChooseArgs& a, double rows) {
  const bool has_dists = node.fn == reinterpret_cast<void (*)()>(choose_dists);
  return {has_dists ? "choose + dist" : "choose", sentence(a.columns.n),
          kFloat * rows * a.columns.n, 0, rows * a.columns.n};
}

Cost cost_of(const Graph::Node& node, double rows) {
  if (const auto* a = args_of<MatmulArgs>(node)) return cost_of(*a, rows);
  if (const auto* a = args_of<ProjectArgs>(node)) return cost_of(*a, rows);
  if (const auto* a = args_of<AttentionArgs>(node)) return cost_of(*a, rows);
  if (const auto* a = args_of<ResidualArgs>(node))
    return {"norm + add", sentence(a->n), 3 * kFloat * rows * static_cast<double>(a->n), 0,
            5 * rows * static_cast<double>(a->n)};
  if (const auto* a = args_of<ChooseArgs>(node)) return cost_of_choice(node, *a, rows);
  return {"embed", "", 0, 0, 0};
}

struct StampedArgs {
  const Graph::Node* node;  // null after the last op, where only the current time is stored
  int64_t* at;
};

// Runs an op. Before that, rank 0 stores the current time. The previous op has ended then, because
// every op ends with a barrier.
void stamped(const StampedArgs& a, Worker worker) {
  if (worker.rank == 0) *a.at = Trace::now();
  if (a.node) a.node->call(*a.node, worker);
}

struct CollectArgs {
  const Buffer<int64_t>* at;
  std::vector<std::vector<int64_t>>* ns;  // [op] durations of the op, in ns
};

void collect(const CollectArgs& a, Worker) {
  for (size_t i = 0; i < a.ns->size(); ++i) (*a.ns)[i].push_back((*a.at)[i + 1] - (*a.at)[i]);
}

class KernelBench {
 public:
  KernelBench(std::shared_ptr<Model> model, int64_t max_len, int32_t max_rows, int32_t threads)
      : model_(std::move(model)),
        sequence_(1),
        batch_(1),
        dists_(kMaxStepRows),
        choices_(kMaxStepRows) {
    lane_ = model_->bind({.max_len = max_len, .max_rows = max_rows, .threads = threads});
    for (int i = 0; i < threads; ++i) scratch_.emplace_back(model_->vocab());
    rows_ = batch_.data();
    lane_->add_forward(plain_, rows_, true);
    const Columns columns = lane_->columns();
    const ChooseArgs choose{lane_->logits(),  columns.n,       columns,         rows_,
                            sequence_.data(), scratch_.data(), choices_.data(), dists_.data()};
    plain_.add(choose_rows, choose);
    plain_.add(choose_dists, choose);
    const auto& nodes = plain_.nodes();
    at_ = Buffer<int64_t>(nodes.size() + 1);
    ns_.resize(nodes.size());
    for (size_t i = 0; i < nodes.size(); ++i)
      timed_.add(stamped, StampedArgs{&nodes[i], at_.data() + i}, nodes[i].single);
    timed_.add(stamped, StampedArgs{nullptr, at_.data() + nodes.size()}, true);
    timed_.add(collect, CollectArgs{&at_, &ns_}, true);
    runner_ = std::make_unique<Runner>(threads);
  }

  // Runs `times` forwards over a path of `n` rows, which follows `head` tokens. Returns a list with
  // a dict for each op: {op, shape, bytes, weights, flops, integer, ns}.
  py::list run(int64_t head, int n, int width, int times, float temperature) {
    const RingShape& ring = lane_->ring_shape();
    check_within("bench: rows", 1, kMaxRows, n);
    check_within("bench: head", int64_t{0}, ring.window - n, head);
    sequence_[0].sampling = {temperature, 0, 1, 0, 7, 0};
    sequence_[0].sharpness = 1;
    rows_->head[0] = head;
    rows_->n = n;
    for (int i = 0; i < n; ++i)
      rows_->row[i] = {head + i,
                       i % model_->vocab(),
                       static_cast<int32_t>(ring.slot(0, head + i)),
                       -1,
                       static_cast<int16_t>(i),
                       0,
                       Mask::upto(i + 1),
                       Mask::none()};
    for (auto& ns : ns_) {
      ns.clear();
      ns.reserve(times);
    }
    {
      const GilRelease nogil;
      runner_->run(timed_, width, times);
    }
    return report();
  }

 private:
  py::list report() const {
    py::list out;
    for (size_t i = 0; i < ns_.size(); ++i) {
      const Cost cost = cost_of(plain_.nodes()[i], rows_->n);
      py::dict op;
      op["op"] = cost.name;
      op["shape"] = cost.shape;
      op["bytes"] = cost.bytes;
      op["weights"] = cost.weights;
      op["flops"] = cost.flops;
      op["integer"] = cost.is_integer;
      op["ns"] = ns_[i];
      out.append(op);
    }
    return out;
  }

  std::shared_ptr<Model> model_;
  Buffer<Sequence> sequence_;
  Buffer<Batch> batch_;
  Buffer<Dist> dists_;
  Buffer<Choice> choices_;
  Batch* rows_ = nullptr;
  std::unique_ptr<Lane> lane_;
  std::vector<ChooseScratch> scratch_;
  Graph plain_{"bench.plain"}, timed_{"bench.timed"};
  Buffer<int64_t> at_;
  std::vector<std::vector<int64_t>> ns_;
  // Declared last, so that its threads end before the data that they read.
  std::unique_ptr<Runner> runner_;
};

// Times the sampling from given rows of logits, without a forward.
class ChooseBench {
 public:
  // logits [rows, vocab].
  ChooseBench(const py::array_t<float, py::array::c_style | py::array::forcecast>& logits,
              int32_t threads)
      : logits_(logits.size()), sequence_(1), batch_(1), choices_(kMaxRows), runner_(threads) {
    check_equal("bench: dimensions of logits", 2, logits.ndim());
    check_within("bench: rows", py::ssize_t{1}, py::ssize_t{kMaxRows}, logits.shape(0));
    std::copy_n(logits.data(), logits.size(), logits_.data());
    const int vocab = static_cast<int>(logits.shape(1));
    for (int i = 0; i < threads; ++i) scratch_.emplace_back(vocab);
    Batch& rows = batch_[0];
    rows.n = static_cast<int32_t>(logits.shape(0));
    for (int i = 0; i < rows.n; ++i)
      rows.row[i] = {i, 0, -1, -1, static_cast<int16_t>(i), 0, Mask::upto(i + 1), Mask::none()};
    choose_.add(choose_rows, ChooseArgs{logits_.data(),
                                        vocab,
                                        {.n = vocab},
                                        &rows,
                                        sequence_.data(),
                                        scratch_.data(),
                                        choices_.data(),
                                        nullptr});
    timed_.add(stamped, StampedArgs{choose_.nodes().data(), at_.data()});
    timed_.add(stamped, StampedArgs{nullptr, at_.data() + 1}, true);
    timed_.add(collect, CollectArgs{&at_, &ns_}, true);
  }

  // Samples from all rows, `times` times. Returns the duration of each pass in ns, and the tokens.
  std::pair<std::vector<int64_t>, std::vector<int32_t>> run(const Sampling& dist, int width,
                                                            int times) {
    sequence_[0].sampling = dist;
    ns_[0].clear();
    ns_[0].reserve(times);
    {
      const GilRelease nogil;
      runner_.run(timed_, width, times);
    }
    std::vector<int32_t> tokens(batch_[0].n);
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = choices_[i].token;
    return {ns_[0], tokens};
  }

 private:
  Buffer<float> logits_;
  Buffer<Sequence> sequence_;
  Buffer<Batch> batch_;
  Buffer<Choice> choices_;
  std::vector<ChooseScratch> scratch_;
  Graph choose_{"bench.choose"}, timed_{"bench.timed"};
  Buffer<int64_t> at_{2};
  std::vector<std::vector<int64_t>> ns_{1};
  Runner runner_;  // declared last, so that its threads end before the data that they read
};

struct RoofArgs {
  const Kernels* kernels;
  const float* x;
  int64_t n, steps;
  std::array<double, 64>* flops;
};

void read_share(const RoofArgs& a, Worker worker) {
  const Interval mine = worker.share(a.n, 1024);
  volatile float sink = a.kernels->read(a.x + mine.begin, mine.size());
  static_cast<void>(sink);
}

void peak_share(const RoofArgs& a, Worker worker) {
  float out[2] = {0.5f, 1.0f};
  (*a.flops)[worker.rank] = a.kernels->peak(a.steps, out);
}

void integer_share(const RoofArgs& a, Worker worker) {
  alignas(64) int32_t out[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
  (*a.flops)[worker.rank] = integers_beside(a.kernels->name).peak(a.steps, out);
}

// Measures the peak rates of a team with the kernels of one instruction set.
class Roofs {
 public:
  Roofs(int threads, const std::string& isa)
      : kernels_(&kernels_named(isa)), threads_(threads), runner_(threads) {
    check_within("bench: threads", 1, 64, threads);
  }

  // Returns the rate in bytes per second at which `bytes` bytes are read repeatedly. Each member of
  // the team reads a share.
  double read(int64_t bytes, int times) {
    const int64_t n = bytes / static_cast<int64_t>(sizeof(float));
    if (static_cast<int64_t>(data_.size()) < n) {
      data_ = Buffer<float>(n, PageSize::large);
      for (int64_t i = 0; i < n; ++i) data_[i] = 1;
    }
    const double seconds = measure(read_share, {kernels_, data_.data(), n, 0, &flops_}, times);
    return static_cast<double>(bytes) / seconds;
  }

  // Returns the rate of fma in registers, in floating-point operations per second.
  double peak(int64_t steps, int times) { return rate(peak_share, steps, times); }
  // Returns the rate of integer dot products in registers, in operations per second. A product and
  // its addition count as two operations.
  double integers(int64_t steps, int times) { return rate(integer_share, steps, times); }

 private:
  double rate(void (*share)(const RoofArgs&, Worker), int64_t steps, int times) {
    const double seconds = measure(share, {kernels_, nullptr, 0, steps, &flops_}, times);
    double operations = 0;
    for (int i = 0; i < threads_; ++i) operations += flops_[i];
    return operations / seconds;
  }

  // Returns the time of the fastest of `times` runs, in seconds.
  double measure(void (*fn)(const RoofArgs&, Worker), const RoofArgs& args, int times) {
    const GilRelease nogil;
    Graph work("bench.roof");
    Buffer<int64_t> at(2);
    std::vector<std::vector<int64_t>> ns(1);
    ns[0].reserve(times);
    Graph one("bench.one");
    one.add(fn, args);
    work.add(stamped, StampedArgs{one.nodes().data(), at.data()});
    work.add(stamped, StampedArgs{nullptr, at.data() + 1}, true);
    work.add(collect, CollectArgs{&at, &ns}, true);
    runner_.run(work, threads_, times);
    return static_cast<double>(*std::min_element(ns[0].begin(), ns[0].end())) * 1e-9;
  }

  const Kernels* kernels_;
  int threads_;
  Buffer<float> data_;
  std::array<double, 64> flops_{};
  Runner runner_;
};

}  // namespace

void bind_kernel_bench(py::module_& m) {
  py::class_<KernelBench>(m, "KernelBench", "Times every op of a model's forward in its place.")
      .def(py::init<std::shared_ptr<Model>, int64_t, int32_t, int32_t>(), py::arg("model"),
           py::arg("max_len"), py::arg("max_rows"), py::arg("threads"))
      .def("run", &KernelBench::run, py::arg("head"), py::arg("rows"), py::arg("width"),
           py::arg("times"), py::arg("temperature") = 0.0f);
  py::class_<ChooseBench>(m, "ChooseBench", "Times the choice of given rows by itself.")
      .def(
          py::init<const py::array_t<float, py::array::c_style | py::array::forcecast>&, int32_t>(),
          py::arg("logits"), py::arg("threads"))
      .def("run", &ChooseBench::run, py::arg("sampling"), py::arg("width"), py::arg("times"));
  py::class_<Roofs>(m, "Roofs", "The limits of a team of this machine in reading and computing.")
      .def(py::init<int, const std::string&>(), py::arg("threads"), py::arg("isa") = "auto")
      .def("read", &Roofs::read, py::arg("bytes"), py::arg("times") = 5)
      .def("peak", &Roofs::peak, py::arg("steps") = 1 << 18, py::arg("times") = 5)
      .def("integers", &Roofs::integers, py::arg("steps") = 1 << 16, py::arg("times") = 5);
}

}  // namespace sbrt
