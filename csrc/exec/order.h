// Checks with vector clocks that concurrent ops use separate parts of the state. It works on any
// list of ops that declare what they read and write. It needs no backend and no driver.
//
// Two accesses to one part of one seat conflict if at least one is a write. They must be ordered:
// the second must begin only after the first has ended. Order comes from a common stream, from a
// wait for an event recorded after the first, or from the host. The host enqueues nothing while it
// waits for an event.
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

  // Adds a stream, or an event whose value is `initial`, and returns its number.
  int stream(const std::string& name);
  int event(const std::string& name, int64_t initial);

  // Adds an op. seats: the seats whose parts the op accesses. graph: the picked graph of a captured
  // op.
  void run(int stream, const char* name, const Effects& effects, SeatSet seats = kEverySeat,
           const void* graph = nullptr);
  // Adds a copy between memories.
  void send(int stream, const char* name, const Effects& effects, SeatSet seats);
  void wait(int stream, int event, int64_t value);
  void record(int stream, int event, int64_t value);
  // Notes that the next ops belong to one launch. For callers that count launches.
  void launch(int stream, const char* graph) { launches_.push_back({stream, name(graph)}); }

  // Returns one sentence for each pair of ops, by name, part and seat, that conflict and that
  // nothing orders. Also returns one for each op that reads a part in one memory after ops wrote it
  // in the other, without a mail in between. without: names of events and mail. Streams' waits for
  // these events, and these mails, are ignored. host: also count waits of the host.
  std::vector<std::string> conflicts(const std::vector<std::string>& without, bool host) const;

  // The name of a part, with the number of its memory if that is the second.
  std::string name_of(int part) const;
  // All parts that ops on a stream may write.
  Parts written_by(int stream) const;

  enum class Kind : int8_t { run, wait, record };
  struct Op {
    Kind kind;
    int32_t stream;
    int32_t name;   // number of the op's name, if the kind is run
    int32_t event;  // number of the event, if the kind is wait or record
    int64_t value;
    int64_t issued;  // number of ops of the host before this op
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
