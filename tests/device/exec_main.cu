// Tests the cuda backend on a device: streams and events, ops of a round compared with the host's,
// records, errors.
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "exec/cuda/call.h"
#include "exec/cuda/parts.h"
#include "exec/exec.h"
#include "round/chance_script.h"
#include "round/op_script.h"
#include "round/seat_ops.h"

namespace sbrt {
namespace {

constexpr int kTurns = 2000;

struct CellArgs {
  int64_t* to;
  const int64_t* from;
  int64_t spins;
};

// Sets *to to *from + 1 after `spins` clock cycles.
__global__ void follow(const CellArgs args) {
  const int64_t begin = clock64();
  while (clock64() - begin < args.spins) {
  }
  *args.to = *args.from + 1;
}

__global__ void trap(const CellArgs) { __trap(); }

void nothing(const CellArgs&, Worker) {}

Graph graph_of(const char* name, void (*kernel)(CellArgs), const CellArgs& args) {
  Graph graph(name);
  graph.add(nothing, args).on_device(reinterpret_cast<const void*>(kernel), 1);
  return graph;
}

template <class T>
void fetch(T& here, const T* there) {
  cudaStream_t stream = nullptr;
  checked(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  checked(cudaMemcpyAsync(&here, there, sizeof here, cudaMemcpyDeviceToHost, stream),
          "cudaMemcpyAsync");
  checked(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  checked(cudaStreamDestroy(stream), "cudaStreamDestroy");
}

template <class T>
T fetched(const T* there) {
  T here;
  fetch(here, there);
  return here;
}

// Two streams in turn add one to a number, each through events of the other stream. A stream may be
// told to wait for an event before the event is recorded.
void keep_order() {
  const auto exec = make_cuda_exec(0);
  const auto cells = exec->cells<int64_t>(2, Where::device);
  int64_t* a = cells.device();
  const auto one = exec->stream(1, {"one", true}), two = exec->stream(1, {"two", false});
  const Graph slow = graph_of("slow", follow, {a, a + 1, 20000});
  const Graph quick = graph_of("quick", follow, {a + 1, a, 0});
  one->prepare(slow), two->prepare(quick);
  Event first("first"), second("second");
  for (int64_t turn = 1; turn <= kTurns; ++turn) {
    two->wait(first, turn);  // this call may come before the event's record
    two->launch(quick, 1);
    two->record(second, turn);
    one->wait(second, turn - 1);
    one->launch(slow, 1);
    one->record(first, turn);
  }
  exec->wait(second, kTurns);
  check(fetched(a + 1) == 2 * kTurns, "order: expected ", 2 * kTurns, ", got ", fetched(a + 1));
}

// Builds a graph with two parts: a kernel and a captured graph. Launches it once as one fused
// launch, and once part by part. Both must do the same work.
void fuse() {
  const auto exec = make_cuda_exec(0);
  const auto cells = exec->cells<int64_t>(2, Where::device);
  int64_t* a = cells.device();
  cudaGraph_t captured = nullptr;
  cudaGraphNode_t node = nullptr;
  CellArgs args{a, a + 1, 20000};
  void* parameter = &args;
  cudaKernelNodeParams kernel{};
  kernel.func = reinterpret_cast<void*>(follow);
  kernel.gridDim = kernel.blockDim = dim3(1);
  kernel.kernelParams = &parameter;
  checked(cudaGraphCreate(&captured, 0), "cudaGraphCreate");
  checked(cudaGraphAddKernelNode(&node, captured, nullptr, 0, &kernel), "cudaGraphAddKernelNode");
  const Captured one{{captured}};
  Graph step("step"), burst("burst");
  step.add(nothing, args).on_device(one);
  step.append(graph_of("back", follow, {a + 1, a, 0}));
  constexpr int kSteps = 15;
  burst.append(step, kSteps);
  {
    const auto stream = exec->stream(1);
    stream->prepare(step);
    stream->fuse(burst);
    Event done("done");
    for (int64_t turn = 1; turn <= kTurns; ++turn) {
      stream->launch(burst, 1);
      stream->launch(step, 1);
      stream->record(done, turn);
    }
    exec->wait(done, kTurns);
  }
  checked(cudaGraphDestroy(captured), "cudaGraphDestroy");
  const int64_t wanted = int64_t{2} * (kSteps + 1) * kTurns;
  check(fetched(a + 1) == wanted, "fused: expected ", wanted, ", got ", fetched(a + 1));
}

// Runs the ops of an OpScript on an OpState in the device's memory. Each op and dtype has its own
// graph.
class DeviceOps {
 public:
  DeviceOps()
      : exec_(make_cuda_exec(0)),
        state_(exec_->cells<OpState>(1, Where::device)),
        stream_(exec_->stream(1)) {}

  // Copies `s` to the device, runs the op there, and copies the result back.
  void run(RoundOp op, OpState& s) {
    s.aim(state_.device());
    std::memcpy(state_.host(), &s, sizeof s);
    exec_->upload(state_, 0, 1);
    stream_->launch(graph_of(op, s.dtype), 1);
    stream_->record(done_, ++runs_);
    exec_->wait(done_, runs_);
    s = fetched(state_.device());
  }

 private:
  const Graph& graph_of(RoundOp op, DType dtype) {
    const auto found = graphs_.find({op, dtype});
    if (found != graphs_.end()) return *found->second;
    auto graph = std::make_unique<Graph>("op");
    OpState* there = state_.device();
    const bool of_target = op == RoundOp::target_rows || op == RoundOp::prefill_target_rows;
    const LaneArgs lane = lane_at(there, !of_target);
    const SelectArgs select = select_at(there);
    const bool selects =
        op == RoundOp::select || op == RoundOp::attach_chain || op == RoundOp::attach_burst;
    const bool classifies =
        op == RoundOp::hrad_features || op == RoundOp::hrad_inner || op == RoundOp::hrad_cut;
    Graph::Node& node = classifies                    ? put(*graph, hrad_at(there, dtype))
                        : selects                     ? put(*graph, select)
                        : op == RoundOp::gather_draft ? put(*graph, gather_at(there))
                        : op == RoundOp::end_round    ? put(*graph, EndArgs{&there->ended})
                                                      : put(*graph, lane);
    node.on_device(kernel_of(op), shape_of(op).threads, shape_of(op).blocks);
    stream_->prepare(*graph);
    return *(graphs_[{op, dtype}] = std::move(graph));
  }

  template <class Args>
  static Graph::Node& put(Graph& graph, const Args& args) {
    return graph.add(+[](const Args&, Worker) {}, args);
  }

  std::unique_ptr<Exec> exec_;
  Cells<OpState> state_;
  std::map<std::pair<RoundOp, DType>, std::unique_ptr<Graph>> graphs_;
  Event done_{"done"};
  int64_t runs_ = 0;
  std::unique_ptr<Stream> stream_;  // last, so that it is destroyed first
};

void compare_ops() {
  constexpr uint64_t kSeeds = 60;
  constexpr int kRounds = 40;
  const auto host = std::make_unique<OpState>(), device = std::make_unique<OpState>();
  DeviceOps there;
  int64_t ops = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    OpScript script(seed, *host);
    OpScratch scratch;
    const auto run = [&](RoundOp op) {
      *device = *host;
      run_op(op, *host, scratch, Alone{});
      there.run(op, *device);
      device->aim(host.get());
      check(is_same(*host, *device), "ops: seed ", seed, ", op ", static_cast<int>(op),
            " gave another block on the device");
      ++ops;
    };
    script.prefill(run);
    for (int r = 0; r < kRounds && script.round(run); ++r) {
    }
  }
  std::printf("%ld ops\n", static_cast<long>(ops));
}

// Compares the ops of rejection sampling on the device with those on the host. Every bit of the
// distributions must be equal, too.
void compare_walks() {
  constexpr uint64_t kSeeds = 400;
  const auto host = std::make_unique<ChanceState>(), device = std::make_unique<ChanceState>();
  const auto exec = make_cuda_exec(0);
  const auto cells = exec->cells<ChanceState>(1, Where::device);
  const auto stream = exec->stream(1);
  Graph graph("walk");
  graph.add(
           +[](const LaneArgs&, Worker) {}, scores_at(cells.device()))
      .on_device(kernel_of(RoundOp::move_scores), kRows.threads, kRows.blocks);
  graph.add(
           +[](const SelectArgs&, Worker) {}, walk_at(cells.device()))
      .on_device(kernel_of(RoundOp::walk_by_chance), kBigBlock.threads);
  stream->prepare(graph);
  Event done("done");
  int64_t accepted = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const ChanceScript script(seed, *host);
    *cells.host() = *host;
    cells.host()->aim(cells.device());
    exec->upload(cells, 0, 1);
    stream->launch(graph, 1);
    stream->record(done, static_cast<int64_t>(seed) + 1);
    NoMemory none;
    AcceptScratch scratch;
    for (int block = 0; block < kScoreBlocks; ++block)
      MoveScores::run(scores_at(host.get()), At{0, block}, none, Alone{});
    WalkByChance::run(walk_at(host.get()), At{}, scratch, Alone{});
    exec->wait(done, static_cast<int64_t>(seed) + 1);
    fetch(*device, cells.device());
    device->aim(host.get());
    check(is_same(*host, *device), "walks: seed ", seed, " gave other bits on the device");
    accepted += host->sequence.outcome.n;
  }
  std::printf("%ld nodes\n", static_cast<long>(accepted));
}

// When the host sees the event of a round, it sees every word of the round's record.
void read_records() {
  const auto exec = make_cuda_exec(0);
  const auto state = exec->cells<OpState>(1, Where::device);
  const auto records = exec->cells<Records>(1, Where::pinned);
  OpScript script(1, *state.host());
  state.host()->sequence.limit = 1 << 20;
  state.host()->sequence.chain.size = 0;
  state.host()->aim(state.device());
  exec->upload(state, 0, 1);
  Graph graph("select");
  const SelectArgs args = select_at(state.device());
  for (const RoundOp op : {RoundOp::select, RoundOp::attach_chain})
    graph.add(+[](const SelectArgs&, Worker) {}, args).on_device(kernel_of(op), 32);
  graph.add(
           +[](const EndArgs&, Worker) {}, EndArgs{&state.device()->ended})
      .on_device(kernel_of(RoundOp::end_round), 1);
  const auto stream = exec->stream(1);
  stream->prepare(graph);
  Event done("done");
  constexpr int kRounds = 200;  // each round commits one token; the trunk holds 200
  for (int64_t round = 1; round <= kRounds; ++round) {
    stream->launch(graph, 1);
    stream->record(done, round);
    exec->wait(done, round);
    check((records.host()->of(round).get(0, round) >> 8 & 255) == 0, "record: no node stood");
    static_cast<void>(records.host()->of(round).get(2, round));
  }
}

// A broken device reports the place of the error at every call, and no call blocks for ever.
void stick() {
  const auto exec = make_cuda_exec(0);
  const auto stream = exec->stream(1);
  const Graph broken = graph_of("broken", trap, {});
  stream->prepare(broken);
  Event done("done");
  stream->launch(broken, 1);
  stream->record(done, 1);
  for (int64_t turn = 1; turn <= 3; ++turn) {
    std::string said;
    try {
      exec->wait(done, turn);
    } catch (const Error& error) {
      said = error.what();
    }
    check(said.find("cuda_stream.cc:") == 0, "sticky: expected a call's place, got '", said, "'");
    exec->forget();
    stream->launch(broken, 1);
    stream->record(done, turn + 1);
  }
}

// A wait of the host has a time limit, so it also ends if an event is never recorded.
void give_up() {
  const auto exec = make_cuda_exec(0);
  const auto one = exec->stream(1), two = exec->stream(1);
  Event first("first"), second("second");
  one->wait(second, 1);
  one->record(first, 1);
  check(!exec->reach(first, 1, Trace::now()), "reach: expected the end of its time");
  bool gave_up = false;
  try {
    exec->wait(first, 1);
  } catch (const Error&) {
    gave_up = true;
  }
  check(gave_up, "reach: expected an error for what nobody records");
}

}  // namespace
}  // namespace sbrt

int main(int argc, char** argv) {
  return sbrt::run_part({{"order", sbrt::keep_order},
                         {"fused", sbrt::fuse},
                         {"ops", sbrt::compare_ops},
                         {"walks", sbrt::compare_walks},
                         {"record", sbrt::read_records},
                         {"never", sbrt::give_up},
                         {"sticky", sbrt::stick}},
                        argc, argv);
}
