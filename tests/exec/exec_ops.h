// Ops for the streams of exec_test.cc.
#pragma once

#include <chrono>
#include <cstdint>
#include <thread>

#include "core/check.h"
#include "exec/exec.h"

namespace sbrt {

struct Vectors {
  const double* in;
  double* out;
  int64_t n;
};

inline void add_neighbours(const Vectors& a, Worker worker) {
  const Interval mine = worker.share(a.n);
  for (int64_t i = mine.begin; i < mine.end; ++i)
    a.out[i] = 0.5 * a.in[i] + 0.25 * a.in[(i + a.n - 1) % a.n] + a.in[(i + 1) % a.n] / 3;
}

struct Shift {
  double* first;
};
inline void shift(const Shift& a, Worker worker) {
  check(worker.rank == 0 && worker.size == 1, "a single op ran on ", worker.rank, " of ",
        worker.size);
  *a.first += 1;
}

struct Fold {  // not commutative: a wrong order gives a different number
  uint64_t* value;
  uint64_t factor;
  uint64_t* round;
};
inline void fold(const Fold& a, Worker) { *a.value = *a.value * a.factor + ++*a.round; }

struct Nap {
  int us;
};
inline void nap(const Nap& a, Worker) {
  std::this_thread::sleep_for(std::chrono::microseconds(a.us));
}

struct Throw {
  int rank;  // rank of the member that throws; -1: all throw
  int code;
};
inline void throw_code(const Throw& a, Worker worker) {
  if (a.rank == worker.rank || a.rank < 0) throw Error(sentence("code ", a.code));
}

struct SetRows {
  int32_t* rows;
  int32_t n;
};
inline void set_rows(const SetRows& a, Worker) { *a.rows = a.n; }

struct Denormal {
  const double* tiny;
  double* out;  // one value per member of the team
};
inline void halve(const Denormal& a, Worker worker) { a.out[worker.rank] = *a.tiny / 2; }

}  // namespace sbrt
