// Tests the cuda backend with the draft on the CPU. fake_cuda.h replaces the CUDA runtime, and its
// streams are threads. The ops of the rounds only compute hashes. Rounds that are enqueued ahead
// must give the same values as rounds on one thread.
//
//   host_lane_main rounds COUNT [MAIL]    MAIL: name of a mail that is left out
//   host_lane_main throws | breaks        an op of the draft throws; the device breaks
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <string>

#include "core/bits.h"
#include "core/check.h"
#include "exec/exec.h"
#include "fake_cuda.h"
#include "parts.h"
#include "round/round.h"

namespace sbrt {
namespace {

constexpr int64_t kFold = 1;  // its address stands for a kernel that takes this number of ns
std::atomic<bool> throws = false;

// The values in one memory. `kv` belongs to the lane of that memory. The others are written by one
// lane and read by the other.
struct Values {
  int64_t outcome, chain, branches, kv;
};

// The arguments of the op `fold`, which sets *to to a hash of *to and *from.
struct Fold {
  int64_t* to;
  const int64_t* from;
};

void fold(const Fold& a, Worker) {
  *a.to = static_cast<int64_t>(mix64(static_cast<uint64_t>(*a.to), static_cast<uint64_t>(*a.from)));
}

void fold_of_draft(const Fold& a, Worker worker) {
  check(!throws, "fold: told to throw");
  fold(a, worker);
}

Graph folding(const char* name, const Fold& one) {
  Graph graph(name);
  graph.add(fold, one).on_device(&kFold, 1);
  return graph;
}

Graph folding(const char* name, const Fold& one, const Fold& two) {
  return folding(name, one).append(folding(name, two));
}

Graph drafting(const char* name, const Fold& one) {
  Graph graph(name);
  graph.add(fold_of_draft, one);
  return graph;
}

// Two lanes whose ops only make the accesses that csrc/README.md lists in "Who writes what".
struct Lanes {
  explicit Lanes(std::unique_ptr<Exec> on) : exec(std::move(on)) {
    for (const Graph* graph : {&settle_target, &forward, &select}) target->prepare(*graph);
    for (const auto& cells : {here, there}) {
      *cells.host() = {1, 1, 1, 1};
      exec->upload(cells, 0, 1);
    }
  }

  Mail mail(const char* name, int from, size_t begin, size_t end) const {
    auto *one = reinterpret_cast<std::byte*>(t), *two = reinterpret_cast<std::byte*>(d);
    if (from == 1) std::swap(one, two);
    return {name, from, 1 - from, {}, {{one + begin, two + begin, end - begin}}};
  }

  // Enqueues rounds without waiting for any. without: name of a mail that is left out.
  void enqueue(int64_t first, int64_t last, const std::string& without = {}) {
    const auto given = [&without](const Mail& mail) {
      return without == mail.name ? nullptr : &mail;
    };
    TargetLane one{*target, settle_target, forward, select};
    one.verdict = given(verdict);
    DraftLane two{*draft, settle_draft, certain, attach, catch_up, plan, step};
    two.burst_mail = given(burst);
    two.offer = given(offer);
    for (int64_t r = first; r <= last; ++r) enqueue_round(r, shape_of(r), one, &two, fences);
  }

  static RoundShape shape_of(int64_t round) {
    // {draft steps before the target's forward, draft steps during it} of four kinds of rounds:
    // overlapped, serial, both, neither
    constexpr int kShapes[][2] = {{0, 2}, {2, 0}, {2, 2}, {0, 0}};
    const auto& [burst, gamma] = kShapes[mix64(1, static_cast<uint64_t>(round)) % 4];
    return {burst, gamma, 1, 1, 1};
  }

  Fences fences;  // first, so destroyed last: threads may record fences until they end
  std::unique_ptr<Exec> exec;
  Cells<Values> here = exec->cells<Values>(1, Where::device),
                there = exec->cells<Values>(1, Where::device, 1);
  Values *t = here.device(), *d = there.device();
  Graph settle_target = folding("settle", {&t->kv, &t->outcome}),
        forward = folding("forward", {&t->kv, &t->chain}),
        select = folding("select", {&t->outcome, &t->kv}, {&t->chain, &t->branches});
  Graph settle_draft = folding("settle", {&d->kv, &d->outcome}, {&d->kv, &d->chain}),
        certain = folding("plan_certain", {&d->branches, &d->chain}),
        attach = folding("attach_burst", {&d->chain, &d->branches}),
        catch_up = folding("catch_up", {&d->kv, &d->chain}),
        plan = folding("plan", {&d->branches, &d->chain}),
        step = drafting("step", {&d->branches, &d->kv});
  Mail verdict = mail("verdict", 0, 0, offsetof(Values, branches)),
       burst = mail("burst", 1, offsetof(Values, chain), offsetof(Values, kv)),
       offer = mail("offer", 1, offsetof(Values, branches), offsetof(Values, kv));
  std::unique_ptr<Stream> target = exec->stream(1, {.name = "target"}),
                          draft = exec->stream(2, {.name = "draft", .place = 1});
};

std::unique_ptr<Exec> make_threads() {
  fake::use_threads();
  fake::set_work(&kFold, [](const void* args) { fold(*static_cast<const Fold*>(args), {}); });
  return make_cuda_exec(0, kHostMemory);
}

Values end_of(std::unique_ptr<Exec> exec, int64_t rounds, const std::string& without) {
  Lanes lanes(std::move(exec));
  lanes.enqueue(1, rounds, without);
  lanes.exec->wait(lanes.fences.verify_done, rounds);
  return *lanes.t;
}

void check_rounds(int64_t rounds, const std::string& without) {
  const Values got = end_of(make_threads(), rounds, without),
               want = end_of(make_sim_exec(), rounds, {});
  check_equal("rounds: the outcome", want.outcome, got.outcome);
  check_equal("rounds: the chain", want.chain, got.chain);
}

// An op of the draft throws. The host must get the exception, and the device must get no mail.
// Every event must still be reached, and later rounds must run.
void check_throws() {
  constexpr int64_t kRounds = 20;
  Lanes lanes(make_threads());
  Event sent("sent"), seen("seen");
  throws = true;
  lanes.draft->launch(lanes.plan, 1);
  lanes.draft->launch(lanes.step, 1);
  lanes.draft->send(lanes.offer, kEverySeat);
  lanes.draft->record(sent, 1);
  lanes.target->wait(sent, 1);
  lanes.target->record(seen, 1);
  std::string said;
  try {
    lanes.exec->wait(seen, 1);
  } catch (const Error& error) {
    said = error.what();
  }
  check_equal("throws: the sentence", std::string("fold: told to throw"), said);
  check_equal("throws: what the device has", int64_t{1}, lanes.t->branches);
  throws = false;
  lanes.exec->forget();
  lanes.enqueue(1, kRounds);
  lanes.exec->wait(lanes.fences.verify_done, kRounds);
}

// The device breaks while a worker thread waits for it. The worker must stop waiting without the
// host's help.
void check_breaks() {
  Lanes lanes(make_threads());
  Event never("never");
  lanes.draft->wait(never, 1);
  lanes.draft->launch(lanes.step, 1);
  fake::broken = true;
  lanes.draft.reset();
  bool thrown = false;
  try {
    lanes.exec->rethrow();
  } catch (const Error&) {
    thrown = true;
  }
  check(thrown, "breaks: expected the device's error");
}

}  // namespace
}  // namespace sbrt

int main(int argc, char** argv) {
  alarm(120);  // seconds, so that a hang cannot block the tests
  const int64_t count = argc > 2 ? std::atoll(argv[2]) : 0;
  const std::string without = argc > 3 ? argv[3] : "";
  return sbrt::run_part({{"rounds", [&] { sbrt::check_rounds(count, without); }},
                         {"throws", sbrt::check_throws},
                         {"breaks", sbrt::check_breaks}},
                        argc, argv);
}
