// The cpu backend: a stream is a worker thread with a team of cores, an event is a counter.
#include <algorithm>

#include "core/check.h"
#include "exec/cpu/cpu_stream.h"
#include "exec/exec.h"

namespace sbrt {
namespace {

constexpr int kPageBytes = 4096;

struct TouchArgs {
  std::byte* at;
  int64_t bytes;
};

// The system commits a page in the memory of the core that writes to it first.
void touch(const TouchArgs& a, Worker worker) {
  const Interval mine = worker.share(a.bytes, kPageBytes);
  for (int64_t at = mine.begin; at < mine.end; at += kPageBytes) a.at[at] = std::byte{0};
}

class CpuExec final : public Exec {
 public:
  bool reach(Event& event, int64_t value, int64_t until) override {
    return shared_.bell.wait(event, value, until);
  }

  void rethrow() override {
    if (!shared_.failure.raised()) return;
    for (const Made& made : streams_) made.stream->drain();
    shared_.failure.rethrow();
  }
  void forget() override { shared_.failure.forget(); }
  Capabilities can() const override { return capabilities_of(Backend::cpu); }

 protected:
  std::unique_ptr<Stream> make_stream(int threads, const StreamKind& kind) override {
    check_within("exec: threads of a stream", 1, 1024, threads);
    const bool is_pinned = !kind.cores.empty();
    if (is_pinned) check_equal("exec: cores of a team", kind.cores.size(), size_t(threads));
    check_cores(kind.cores);
    // The first stream takes cores from the front of the list, the others from the back.
    const int first = streams_.empty() ? 0 : -1, step = streams_.empty() ? 1 : -1;
    auto stream = std::make_unique<CpuStream>(threads, TeamCores{kind.cores, first, step},
                                              kind.nvtx, shared_);
    streams_.push_back({stream.get(), threads, kind.place, is_pinned});
    return stream;
  }

  // If the place has a pinned team, that team is the first to touch the memory.
  Block allocate(size_t bytes, Where where, int place) override {
    const Block block = Exec::allocate(bytes, where, place);
    const auto team = std::find_if(streams_.begin(), streams_.end(), [place](const Made& made) {
      return made.is_pinned && made.place == place;
    });
    if (team == streams_.end() || where != Where::device || bytes == 0) return block;
    Graph graph("touch");
    graph.add(touch, TouchArgs{static_cast<std::byte*>(block.device), static_cast<int64_t>(bytes)});
    team->stream->launch(graph, team->threads, kEverySeat);
    team->stream->drain();
    return block;
  }

 private:
  struct Made {
    CpuStream* stream;
    int threads, place;
    bool is_pinned;
  };

  CpuStream::Shared shared_;
  std::vector<Made> streams_;
};

}  // namespace

std::unique_ptr<Exec> make_cpu_exec() { return std::make_unique<CpuExec>(); }

}  // namespace sbrt
