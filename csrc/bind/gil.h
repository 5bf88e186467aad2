// Guards for the interpreter's lock (the GIL). They replace pybind11's guards, which can end the
// process at exit: CPython unwinds the stack of each daemon thread that then asks for the GIL.
// Unwinding through a destructor calls std::terminate, and the program loses its exit code.
#pragma once

#include <Python.h>
#include <unistd.h>

namespace sbrt {

// If the interpreter wants to end the calling thread, puts the thread to sleep for ever, as CPython
// 3.14 and newer do. The thread still holds references, locks and memory that other threads may be
// using.
template <class Ask>
auto or_sleep(const Ask& ask) {
  try {
    return ask();
  } catch (...) {  // catches the unwinding of the thread, which must not leave this handler
    for (;;) pause();
  }
}

// Releases the GIL while this object lives, so that other Python threads can run.
class GilRelease {
 public:
  GilRelease() : state_(PyEval_SaveThread()) {}
  ~GilRelease() {
    or_sleep([this] { PyEval_RestoreThread(state_); });
  }
  GilRelease(const GilRelease&) = delete;
  GilRelease& operator=(const GilRelease&) = delete;

 private:
  PyThreadState* state_;
};

// While this object lives, the calling thread holds the GIL and may use Python. A thread that
// already holds the GIL may make such an object, too.
class GilAcquire {
 public:
  GilAcquire() : state_(or_sleep(PyGILState_Ensure)) {}
  ~GilAcquire() { PyGILState_Release(state_); }
  GilAcquire(const GilAcquire&) = delete;
  GilAcquire& operator=(const GilAcquire&) = delete;

 private:
  PyGILState_STATE state_;
};

}  // namespace sbrt
