// The commands that the host thread enqueues on a stream, and the code that several backends use
// for them.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "exec/exec.h"

namespace sbrt {

struct Command {
  enum Kind { kLaunch, kWait, kRecord, kSend, kStop };
  Kind kind = kStop;
  int width = 1;
  const Graph* graph = nullptr;
  Event* event = nullptr;
  int64_t value = 0;
  SeatSet seats = kEverySeat;  // the seats of a launch or of a mail
  const Mail* mail = nullptr;
};

constexpr size_t kTraceEvents = 1 << 15;

// A stream that turns each call of its functions into a command.
class CommandStream : public Stream {
 public:
  void launch(const Graph& graph, int width, SeatSet seats) final {
    push({Command::kLaunch, width, &graph, nullptr, 0, seats});
  }
  void send(const Mail& mail, SeatSet seats) final {
    push({Command::kSend, 1, nullptr, nullptr, 0, seats, &mail});
  }
  void wait(Event& event, int64_t value) final {
    push({Command::kWait, 1, nullptr, &event, value});
  }
  void record(Event& event, int64_t value) final {
    push({Command::kRecord, 1, nullptr, &event, value});
  }

 protected:
  virtual void push(const Command& command) = 0;
};

// A queue of commands on the host. A command stays in the queue until it can be executed. Commands
// are executed in order. Kept: the type in which a backend stores a command.
template <class Kept = Command>
class CommandQueue {
 public:
  CommandQueue() { commands_.reserve(kReserve); }

  void push(Kept command) { commands_.push_back(std::move(command)); }

  // Passes commands to `execute` until it returns false. Returns true if any command was executed.
  template <class Execute>
  bool advance(const Execute& execute) {
    const size_t before = next_;
    while (next_ < commands_.size() && execute(commands_[next_])) ++next_;
    const bool moved = next_ != before;
    if (next_ == commands_.size()) {
      commands_.clear();
      next_ = 0;
    }
    return moved;
  }

 private:
  static constexpr size_t kReserve = 512;

  std::vector<Kept> commands_;
  size_t next_ = 0;
};

}  // namespace sbrt
