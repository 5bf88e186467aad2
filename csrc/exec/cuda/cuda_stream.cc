#include "core/check.h"
#if defined(SBRT_WITH_CUDA) && SBRT_WITH_CUDA
#include <algorithm>

#include "exec/cuda/cuda_stream.h"
#include "exec/cuda/publish.h"
#include "exec/nvtx.h"

namespace sbrt {

CudaStream::CudaStream(World& world, const StreamKind& kind)
    : world_(world), device_(world.places[kind.place].device), has_ranges_(kind.nvtx) {
  int lowest = 0, highest = 0;
  checked(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "cudaDeviceGetStreamPriorityRange");
  checked(
      cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, kind.urgent ? highest : lowest),
      "cudaStreamCreateWithPriority");
  world_.streams.push_back(this);
}

CudaStream::~CudaStream() {
  std::erase(world_.streams, this);
  const OnDevice here(device_, std::nothrow);
  if (!here.is_there()) return;
  static_cast<void>(cudaStreamSynchronize(stream_));
  timings_.reset();
  fused_.clear();
  graphs_.clear();
  static_cast<void>(cudaStreamDestroy(stream_));
}

const Trace& CudaStream::trace() {
  collect();
  return trace_;
}

void CudaStream::prepare(const Graph& graph) {
  const OnDevice here(device_);
  graphs_.try_emplace(&graph, graph, stream_);
}

void CudaStream::fuse(const Graph& graph) {
  if (is_fused(graph) || is_played(graph)) return;
  const OnDevice here(device_);
  fused_.put(graph, fused_graph(graph, stream_));
}

bool CudaStream::advance() {
  const OnDevice here(device_);
  return queue_.advance([this](const Command& command) { return hand_over(command); });
}

void CudaStream::keep_times() {
  const OnDevice here(device_);
  collect();
  timings_.reset();
  const auto place = std::ranges::find(world_.places, device_, &Place::device);
  if (!place->clock) return;
  trace_ = Trace(kTraceEvents);
  timings_ = std::make_unique<Timings>(*place->clock, trace_);
}

void CudaStream::collect() {
  if (!timings_ || world_.lost.raised()) return;
  try {
    const OnDevice here(device_);
    timings_->collect();
  } catch (...) {
    world_.fail();
  }
}

void CudaStream::look() const {
  const OnDevice here(device_);
  static_cast<void>(is_done(cudaStreamQuery(stream_), "cudaStreamQuery"));
}

void CudaStream::push(const Command& command) {
  queue_.push(command);
  world_.advance();
}

bool CudaStream::hand_over(const Command& c) {
  if (world_.lost.raised()) return true;
  try {
    if (c.kind == Command::kWait) return wait_for(*c.event, c.value);
    if (c.kind == Command::kRecord) {
      put_record(*c.event, c.value);
    } else if (c.kind == Command::kSend) {
      put_mail(*c.mail, c.seats);
    } else {
      put_graph(*c.graph);
    }
  } catch (...) {
    world_.fail();
  }
  return true;
}

// If the host holds this wait back, the wait's slice in the trace still begins where the stream's
// last work ends. If a stream of the host records the event, the device polls for the record
// (await_on), but only once the record is enqueued. So only the host's earlier work can delay it.
bool CudaStream::wait_for(Event& event, int64_t value) {
  begin_slice();
  const EventBody& body = body_of(event, world_.device());
  if (event.reached() < value) {
    if (body.enqueued < value) return false;
    if (body.is_hosts) {
      checked(await_on(stream_, body.there(), value), "await");
    } else {
      checked(cudaStreamWaitEvent(stream_, body.event, 0), "cudaStreamWaitEvent");
    }
  }
  end_slice(event.name(), true);
  return true;
}

// Records the event, which wakes other streams. Then wakes the host.
void CudaStream::put_record(Event& event, int64_t value) {
  EventBody& body = body_of(event, world_.device());
  body.record(stream_);
  checked(publish_on(stream_, body.there(), value), "publish");
  body.enqueued = value;
}

void CudaStream::put_mail(const Mail& mail, SeatSet seats) {
  begin_slice();
  for (const Mail::Copy& copy : mail.copies)
    if (copy.is_of(seats) && copy.size() > 0) put_copy(mail, copy);
  end_slice(mail.name, false);
}

void CudaStream::put_copy(const Mail& mail, const Mail::Copy& copy) {
  const Place &from = world_.places[mail.from], &to = world_.places[mail.to];
  if (mail.from == mail.to) {
    const size_t pitch = std::max(copy.pitch, copy.size());
    checked(cudaMemcpy2DAsync(copy.to, pitch, copy.from, pitch, copy.size(), copy.rows,
                              cudaMemcpyDeviceToDevice, stream_),
            "cudaMemcpy2DAsync");
  } else if (from.is_host() || to.is_host()) {  // pinned
    checked(cudaMemcpyAsync(copy.to, copy.from, copy.size(), cudaMemcpyDefault, stream_),
            "cudaMemcpyAsync");
  } else {
    checked(cudaMemcpyPeerAsync(copy.to, to.device, copy.from, from.device, copy.size(), stream_),
            "cudaMemcpyPeerAsync");
  }
}

void CudaStream::put_graph(const Graph& graph) {
  const MadeGraph* whole = fused_.find(graph);
  const auto at = graphs_.find(&graph);
  check(whole || at != graphs_.end(), "graph ", graph.name(), ": expected a prepared one");
  const NvtxRange range(has_ranges_, graph.name());
  begin_slice();
  if (whole) {
    checked(cudaGraphLaunch(whole->get(), stream_), "cudaGraphLaunch");
  } else {
    at->second.launch(stream_);
  }
  end_slice(graph.name(), false);
}

void World::advance() {
  for (bool moved = true; moved;) {
    moved = false;
    for (CudaStream* stream : streams) moved |= stream->advance();
  }
}

void World::look() const {
  for (const CudaStream* stream : streams) stream->look();
}

}  // namespace sbrt
#endif
