// Runs graphs one after another on a team of the cpu backend. It needs no engine.
#pragma once

#include <memory>

#include "exec/exec.h"

namespace sbrt {

class Runner {
 public:
  explicit Runner(int threads) : exec_(make_cpu_exec()), stream_(exec_->stream(threads)) {}

  // Runs the graph `times` times and waits for the end. If an op throws, rethrows the exception.
  void run(const Graph& graph, int width, int times = 1) {
    for (int i = 0; i < times; ++i) stream_->launch(graph, width);
    stream_->record(done_, ++runs_);
    exec_->wait(done_, runs_);
  }

 private:
  // Declared first and so destroyed last, because the stream's thread may still record the event.
  Event done_{"runner.done"};
  std::unique_ptr<Exec> exec_;
  std::unique_ptr<Stream> stream_;
  int64_t runs_ = 0;
};

}  // namespace sbrt
