// A stream of a device. In CUDA a stream cannot wait for an event that is not recorded yet. But a
// round's target waits for a burst that is enqueued after it. So each stream keeps a queue on the
// host. The host hands such a wait, and the commands after it, to CUDA as soon as it has handed
// over the record.
#pragma once

#include <unordered_map>

#include "exec/command.h"
#include "exec/cuda/device_graph.h"
#include "exec/cuda/world.h"
#include "exec/fused.h"

namespace sbrt {

class CudaStream final : public CommandStream {
 public:
  CudaStream(World& world, const StreamKind& kind);
  // Lets enqueued work run to its end before anything that it uses is freed.
  ~CudaStream() override;

  const Trace& trace() override;
  void* handle() const override { return stream_; }
  void prepare(const Graph& graph) override;
  void fuse(const Graph& graph) override;
  bool is_fused(const Graph& graph) const override { return fused_.find(graph) != nullptr; }
  int fused() const override { return fused_.size(); }

  // Hands over as many commands as possible to the device. Returns true if there was at least one.
  bool advance();
  // Starts to keep times if the stream's Place has a clock, and stops otherwise. Nothing may be in
  // flight.
  void keep_times();
  void collect();
  // Throws the device's error, if there is one. Any thread may call it.
  void look() const;

 private:
  void push(const Command& command) override;
  bool hand_over(const Command& c);
  bool wait_for(Event& event, int64_t value);
  void put_record(Event& event, int64_t value);
  void put_mail(const Mail& mail, SeatSet seats);
  void put_copy(const Mail& mail, const Mail::Copy& copy);
  void put_graph(const Graph& graph);
  void begin_slice() {
    if (timings_) timings_->begin(stream_);
  }
  void end_slice(const char* name, bool is_wait) {
    if (timings_) timings_->end(stream_, name, is_wait);
  }

  World& world_;
  int device_;
  bool has_ranges_;
  cudaStream_t stream_ = nullptr;
  std::unordered_map<const Graph*, DeviceGraph> graphs_;
  FusedGraphs<MadeGraph> fused_;
  CommandQueue<> queue_;
  Trace trace_{1};
  std::unique_ptr<Timings> timings_;  // null unless a trace is kept
};

}  // namespace sbrt
