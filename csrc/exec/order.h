// What runs at once must be apart: a check of streams and events with vector clocks, on any list of
// ops that say what they read and write. No body and no driver is needed.
//
// Two accesses of one part, one of them a write, are ordered if the second can only begin behind the
// first: on one stream, through a wait for an event recorded behind it, or through the host, which
// enqueues nothing before it has seen what it waited for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "exec/effects.h"

namespace sbrt {

class OrderBook {
 public:
  explicit OrderBook(PartName name) : part_name_(name) {}

  static constexpr int kHost = 0;  // the stream of the thread that enqueues

  // A new stream, or event whose value is `initial`; returns its number. Names are kept.
  int stream(const std::string& name);
  int event(const std::string& name, int64_t initial);

  // `graph`: of a captured op, which of its graphs was picked.
  void run(int stream, const char* name, const Effects& effects, const void* graph = nullptr);
  void wait(int stream, int event, int64_t value);
  void record(int stream, int event, int64_t value);
  // The ops that come next were launched together; for whoever counts launches.
  void launch(int stream, const char* graph) { launches_.push_back({stream, name(graph)}); }

  // One sentence for each pair of ops, by name and part, that nothing orders; empty if all is well.
  // `without`: no stream waits for events of these names. `host`: what the host waits for counts.
  std::vector<std::string> conflicts(const std::vector<std::string>& without, bool host) const;

  // Parts that ops on a stream may write, all together.
  Parts written_by(int stream) const;

  enum class Kind : int8_t { run, wait, record };
  struct Op {
    Kind kind;
    int32_t stream;
    int32_t name;   // of run
    int32_t event;  // of wait and record
    int64_t value;
    int64_t issued;  // ops of the host before it
    Effects effects;
    const void* graph = nullptr;
  };
  struct Named {
    std::string name;
    int64_t initial;
  };
  struct Launch {
    int32_t stream, name;
  };
  const std::vector<Op>& ops() const { return ops_; }
  const std::vector<Launch>& launches() const { return launches_; }
  const std::vector<std::string>& streams() const { return streams_; }
  const std::vector<Named>& events() const { return events_; }
  const std::vector<std::string>& names() const { return names_; }
  const char* part_name(int part) const { return part_name_(part); }

 private:
  void push(Op op);
  int name(const char* name);

  PartName part_name_;
  std::vector<Op> ops_;
  std::vector<Launch> launches_;
  std::vector<std::string> streams_{"host"}, names_;
  std::vector<Named> events_;
  int64_t of_host_ = 0;
};

}  // namespace sbrt
