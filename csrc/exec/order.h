// Checks with vector clocks that concurrent ops use separate parts, for any list of ops that
// declare what they read and write. It needs no backend and no driver.
//
// Two accesses of one part of one seat, at least one of them a write, are ordered if the second can
// only begin after the first has ended. Order comes from a common stream, from a wait for an event recorded
// after the first, or from the host. The host enqueues nothing until it has seen the event it waits
// for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "exec/effects.h"

namespace sbrt {

class OrderBook {
 public:
  explicit OrderBook(const PartTable& parts) : parts_(parts) {}

  static constexpr int kHost = 0;  // the stream number of the thread that enqueues

  // Adds a new stream, or an event whose value is `initial`, and returns its number. Names are
  // kept.
  int stream(const std::string& name);
  int event(const std::string& name, int64_t initial);

  // `seats`: whose parts the op accesses. `graph`: the picked graph of a captured op.
  void run(int stream, const char* name, const Effects& effects, SeatSet seats = kEverySeat,
           const void* graph = nullptr);
  // A copy between memories.
  void send(int stream, const char* name, const Effects& effects, SeatSet seats);
  void wait(int stream, int event, int64_t value);
  void record(int stream, int event, int64_t value);
  // The next ops were launched together. For callers that count launches.
  void launch(int stream, const char* graph) { launches_.push_back({stream, name(graph)}); }

  // One sentence for each pair of ops, by name, part and seat, that nothing orders; empty if there
  // is none. Also one for each op that reads a part of one memory although ops of the other wrote it
  // since the last mail. `without`: waits of streams for events of these names, and mail of these names,
  // are ignored. `host`: waits of the host count.
  std::vector<std::string> conflicts(const std::vector<std::string>& without, bool host) const;

  // The name of a part, with its memory unless that is the first.
  std::string name_of(int part) const;
  // All parts that ops on a stream may write.
  Parts written_by(int stream) const;

  enum class Kind : int8_t { run, wait, record };
  struct Op {
    Kind kind;
    int32_t stream;
    int32_t name;   // for a run
    int32_t event;  // for a wait or record
    int64_t value;
    int64_t issued;  // number of the host's ops before this one
    Effects effects;
    SeatSet seats = kEverySeat;
    const void* graph = nullptr;
    bool is_mail = false;
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
  const PartTable& parts() const { return parts_; }

 private:
  void push(Op op);
  int name(const char* name);

  PartTable parts_;
  std::vector<Op> ops_;
  std::vector<Launch> launches_;
  std::vector<std::string> streams_{"host"}, names_;
  std::vector<Named> events_;
  int64_t of_host_ = 0;
};

}  // namespace sbrt
