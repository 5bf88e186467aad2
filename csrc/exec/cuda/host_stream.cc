#include "core/check.h"
#if defined(SBRT_WITH_CUDA) && SBRT_WITH_CUDA
#include <thread>

#include "exec/cpu/pause.h"
#include "exec/cuda/host_stream.h"

namespace sbrt {
namespace {

constexpr int64_t kNap = 20'000;  // ns
constexpr int kNaps = 64;         // number of naps between two checks for errors

}  // namespace

Courier::Courier(World& world) : world_(world) {
  const OnDevice here(world.device());
  checked(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
}

Courier::~Courier() {
  const OnDevice here(world_.device(), std::nothrow);
  if (here.is_there()) static_cast<void>(cudaStreamDestroy(stream_));
}

// Polls the device's word, because a device cannot wake a thread that sleeps in the kernel.
void Courier::wait_for(const Event& event, int64_t value) {
  for (int turn = 0; event.reached() < value; ++turn) {
    if (turn < kSpins) {
      cpu_relax();
    } else if (turn < kSpins + kYields) {
      std::this_thread::yield();
    } else {
      nap(kNap);
      if (turn % kNaps == 0) look();
    }
  }
}

void Courier::look() const {
  check(!world_.lost.raised(), "exec: the device of the other lane has failed");
  try {
    world_.look();
  } catch (...) {
    world_.fail();
    throw;
  }
}

void Courier::deliver(const Mail& mail, SeatSet seats) {
  const OnDevice here(world_.device());
  for (const Mail::Copy& copy : mail.copies)
    if (copy.is_of(seats) && copy.size() > 0)
      checked(cudaMemcpyAsync(copy.to, copy.from, copy.size(), cudaMemcpyHostToDevice, stream_),
              "cudaMemcpyAsync");
  checked(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

HostStream::HostStream(World& world, int threads, const StreamKind& kind)
    : world_(world),
      link_(world),
      stream_(threads, TeamCores{kind.cores}, kind.nvtx, world.host, &link_) {}

// The calling thread makes the event's EventBody before the worker gets the command. So the worker
// finds the final address of the event's word.
void HostStream::push(const Command& c) {
  EventBody* body = c.event ? &body_of(*c.event, world_.device()) : nullptr;
  stream_.push(c);
  if (c.kind != Command::kRecord) return;
  body->is_hosts = true;
  body->enqueued = c.value;
  world_.advance();
}

}  // namespace sbrt
#endif
