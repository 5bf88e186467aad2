// Tests the cuda backend with two devices. fake_cuda.h replaces the CUDA runtime, so no device is
// needed.
#include <cstdio>
#include <memory>

#include "core/check.h"
#include "exec/exec.h"
#include "fake_cuda.h"
#include "graphs.h"

namespace sbrt {
namespace {

constexpr int64_t kVerify = 1'000'000, kStep = 500'000;  // duration in ns

// A target and a draft, each on its own device, and cells whose values they send each other.
struct Scene {
  std::unique_ptr<Exec> exec = make_cuda_exec(0, 1);
  Graph verify = graph_of("verify", kVerify), step = graph_of("step", kStep);
  Cells<int64_t> here = exec->cells<int64_t>(2, Where::device),
                 there = exec->cells<int64_t>(2, Where::device, 1);
  Mail verdict{"verdict", 0, 1, {}}, offer{"offer", 1, 0, {}};
  Event verify_done{"verify_done"}, draft_ready{"draft_ready"};
  std::unique_ptr<Stream> target = exec->stream(1, {.name = "target"}),
                          draft = exec->stream(1, {.name = "draft", .place = 1});

  Scene() {
    target->prepare(verify);
    draft->prepare(step);
    for (int seat = 0; seat < 2; ++seat) {
      verdict.copies.push_back({here.device() + seat, there.device() + seat, 8, seat});
      offer.copies.push_back({there.device() + seat, here.device() + seat, 8, seat});
    }
  }
  // The host enqueues the target's wait first, and then the offer for which the target waits.
  void round(int64_t r, SeatSet seats) {
    target->launch(verify, 1);
    target->wait(draft_ready, r);
    target->send(verdict, seats);
    target->record(verify_done, r);
    draft->wait(verify_done, r - 1);
    draft->launch(step, 1);
    draft->send(offer, seats);
    draft->record(draft_ready, r);
    exec->wait(verify_done, r);
  }
};

void check_rounds() {
  Scene scene;
  check_equal("devices: given access to each other", 2, fake::counts.peers);
  scene.exec->keep_trace(true);
  const int64_t values[] = {5, 7};
  for (int seat = 0; seat < 2; ++seat) scene.there.host()[seat] = values[seat];
  scene.exec->upload(scene.there, 0, 2);
  scene.round(1, 0b10);  // only the second seat takes part
  check_equal("devices: a seat that took part", int64_t{7}, scene.here.device()[1]);
  check_equal("devices: a seat that did not", int64_t{0}, scene.here.device()[0]);
  scene.round(2, 0b11);
  check_equal("devices: a seat that took part", int64_t{5}, scene.here.device()[0]);
  check_equal("devices: copies between them", 6, fake::counts.peer_copies);
  // The trace has the steps, offers, waits and verdicts of both rounds.
  check(scene.draft->trace().events(0).size() >= 4, "devices: expected a trace of the draft");
  check_equal("devices: the selected device", 0, fake::current);
}

// A copy within one memory may have several items, too, and several rows of them.
void check_copies_within_a_memory() {
  const auto exec = make_cuda_exec(0, 1);
  const auto cells = exec->cells<int64_t>(16, Where::device);
  const auto stream = exec->stream(1, {.name = "target"});
  int64_t* at = cells.device();
  for (int i = 0; i < 16; ++i) at[i] = i;
  const int32_t items = 2;
  const size_t word = sizeof *at;
  Event sent{"sent"};
  const Mail mail{"copy", 0, 0, {}, {{at, at + 8, word, -1, 2, 4 * word, &items}}};
  stream->send(mail, 1);
  stream->record(sent, 1);
  exec->wait(sent, 1);
  for (int i = 8; i < 16; ++i)
    check_equal("devices: a copy within a memory", int64_t{i % 4 < items ? i - 8 : i}, at[i]);
}

}  // namespace
}  // namespace sbrt

int main() {
  try {
    sbrt::check_rounds();
    sbrt::check_copies_within_a_memory();
  } catch (const std::exception& e) {
    std::printf("FAILED: %s\n", e.what());
    return 1;
  }
  std::printf("ok\n");
  return 0;
}
