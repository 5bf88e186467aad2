// Tests two memories of a dry backend. Ops access the memory of their stream, and mail copies
// between the memories.
//
//   memories_main own | other [device]    other: an op accesses the other memory, and faults
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include "core/check.h"
#include "exec/exec.h"
#include "exec/order.h"

namespace {

using namespace sbrt;

struct Add {
  int64_t* to;
};
void add(const Add& a, Worker) { ++*a.to; }

const char* name_of(int) { return "cell"; }
constexpr PartTable kParts{&name_of, {}, {}};
constexpr Effects kAdds{{1}, {1}};

Graph adding(int64_t* to) {
  Graph graph("add");
  graph.add(add, Add{to}).on_device(nullptr, 1).says("add", kAdds);
  return graph;
}

void run(bool reaches_over, bool is_device) {
  const auto exec = is_device ? make_dry_cuda_exec(kParts, 1) : make_dry_exec(kParts, 1);
  const auto first = exec->cells<int64_t>(1, Where::device),
             second = exec->cells<int64_t>(1, Where::device, 1);
  const auto items = exec->cells<int64_t>(3, Where::device),
             copied = exec->cells<int64_t>(3, Where::device, 1);
  if (!is_device) std::fill_n(items.host(), 3, 7);
  check(first.device() != second.device(), "memories: expected two, got one");
  const auto one = exec->stream(1, {.name = "one"}),
             two = exec->stream(1, {.name = "two", .place = 1});
  const Graph here = adding(reaches_over ? second.device() : first.device()),
              there = adding(second.device());
  Mail mail{"mail", 0, 1, {1}};
  mail.copies.push_back({first.device(), second.device(), sizeof(int64_t)});
  const int32_t sent = 2;  // of three items
  mail.copies.push_back({items.device(), copied.device(), sizeof(int64_t), -1, 1, 0, &sent});
  Event told("told"), done("done");
  one->launch(here, 1);
  one->send(mail, kEverySeat);
  one->record(told, 1);
  two->wait(told, 1);
  two->launch(there, 1);
  two->record(done, 1);
  exec->wait(done, 1);
  check(exec->order()->conflicts({}, false).empty(), "memories: expected nothing unordered");
  check(exec->order()->conflicts({"mail"}, false).size() == 1, "memories: expected a missing mail");
  check(!exec->order()->conflicts({"told"}, false).empty(), "memories: expected a missing wait");
  if (!is_device)
    check(*first.host() == 1 && *second.host() == 2, "memories: expected 1 and 2, got ",
          *first.host(), " and ", *second.host());
  if (!is_device)
    check(copied.host()[1] == 7 && copied.host()[2] == 0, "memories: expected a copy of two items");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(argc > 1 && std::string(argv[1]) == "other", argc > 2);
  } catch (const std::exception& e) {
    std::printf("FAILED: %s\n", e.what());
    return 1;
  }
  std::printf("ok\n");
  return 0;
}
