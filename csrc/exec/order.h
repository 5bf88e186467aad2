// Checks with vector clocks that concurrent ops use separate parts of the state. The check works on
// any list of ops that declare what they read and write. It needs no backend and no driver.
//
// Two accesses to one part of one seat conflict if at least one of them is a write. Such accesses
// must be ordered: the second must begin only after the first has ended. Three things order
// accesses. Both ops may be on one stream. A stream may wait for an event recorded after the first
// op. Or the host waits for an event, because it enqueues nothing while it waits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "exec/effects.h"

namespace sbrt {

class OrderBook {
 public:
  explicit OrderBook(const PartTable& parts) : parts_(parts) {}

  static constexpr int kHost = 0;  // stream number of the host thread, which enqueues

  // stream() adds a stream and returns its number. event() adds an event whose value is `initial`
  // and returns its number.
  int stream(const std::string& name);
  int event(const std::string& name, int64_t initial);

  // Adds an op. seats: the seats whose parts the op accesses. graph: if the op is captured, the
  // graph that was picked.
  void run(int stream, const char* name, const Effects& effects, SeatSet seats = kEverySeat,
           const void* graph = nullptr);
  // Adds a mail, which copies between memories.
  void send(int stream, const char* name, const Effects& effects, SeatSet seats);
  void wait(int stream, int event, int64_t value);
  void record(int stream, int event, int64_t value);
  // Records that the next ops belong to one launch. This is for callers that count launches.
  void launch(int stream, const char* graph) { launches_.push_back({stream, name(graph)}); }

  // Returns one sentence for each pair of ops that conflict and that nothing orders. Pairs with the
  // same names, part and seat are reported once. Also returns a sentence for each op that reads a
  // stale part: ops wrote the part in the other memory, and no mail copied it since. without: names
  // of events and mails. Waits of streams for these events are ignored, and so are these mails.
  // host: true if waits of the host also order accesses.
  std::vector<std::string> conflicts(const std::vector<std::string>& without, bool host) const;

  // Returns the name of a part. If the part is in the second memory, the name contains the number
  // of that memory.
  std::string name_of(int part) const;
  // Returns all parts that ops on this stream may write.
  Parts written_by(int stream) const;

  enum class Kind : int8_t { run, wait, record };
  struct Op {
    Kind kind;
    int32_t stream;
    int32_t name;   // number of the op's name, if `kind` is run
    int32_t event;  // number of the event, if `kind` is wait or record
    int64_t value;
    int64_t issued;  // number of ops of the host that were recorded earlier
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
