// The logits of a model along a known text, without an engine.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "bind/bind.h"
#include "bind/gil.h"
#include "bind/runner.h"
#include "core/check.h"
#include "model/lane.h"

namespace py = pybind11;

namespace sbrt {
namespace {

constexpr int32_t kRows = 64;  // rows of one forward

class LogitReader {
 public:
  LogitReader(std::shared_ptr<Model> model, int64_t longest, int32_t threads)
      : model_(std::move(model)),
        longest_(longest),
        lane_(model_->bind(LaneShape{longest, kRows, 0, 0, threads, false})),
        threads_(threads),
        runner_(threads) {
    lane_->add_forward(with_logits_, &table_, true);
    lane_->add_forward(keys_only_, &table_, false);
  }

  void forward(int64_t head, const std::vector<int32_t>& tokens, bool logits) {
    const auto n = static_cast<int64_t>(tokens.size());
    check_within("reader: tokens", int64_t{1}, int64_t{kRows}, n);
    check_within("reader: head", int64_t{0}, std::min(fed_, longest_ - n), head);
    table_.head[0] = head;
    table_.n = static_cast<int32_t>(n);
    for (int64_t j = 0; j < n; ++j) {
      check_within("reader: token", int64_t{0}, model_->vocab() - 1, int64_t{tokens[j]});
      const uint64_t chain = ~uint64_t{0} >> (kRows - 1 - j);
      const auto slot = static_cast<int32_t>(lane_->ring_shape().slot(0, head + j));
      table_.row[j] = {head + j, tokens[j], slot, -1, -1, 0, Mask::of(chain), Mask::of(0)};
    }
    runner_.run(logits ? with_logits_ : keys_only_, threads_);
    fed_ = head + n;
  }

  py::array_t<float> logits() {
    py::array_t<float> out({int64_t{table_.n}, int64_t{lane_->columns().n}});
    std::copy_n(lane_->logits(), out.size(), out.mutable_data());
    return out;
  }

 private:
  std::shared_ptr<Model> model_;
  int64_t longest_, fed_ = 0;  // most tokens of a text; tokens read so far
  std::unique_ptr<Lane> lane_;
  Batch table_{};
  Graph with_logits_{"reader.forward"}, keys_only_{"reader.keys"};
  int32_t threads_;
  Runner runner_;  // last, because its threads end before the data that they read
};

}  // namespace

void bind_reader(py::module_& m) {
  py::class_<LogitReader>(m, "LogitReader",
                          "Reads a model's logits along a text, without an engine. longest: tokens "
                          "of a text at most. One thread uses it at a time.")
      .def(py::init<std::shared_ptr<Model>, int64_t, int32_t>(), py::arg("model"),
           py::arg("longest"), py::arg("threads"))
      .def(
          "forward",
          [](LogitReader& reader, int64_t head, const std::vector<int32_t>& tokens,
             bool logits) -> py::object {
            {
              const GilRelease nogil;
              reader.forward(head, tokens, logits);
            }
            return logits ? py::object(reader.logits()) : py::none();
          },
          py::arg("head"), py::arg("tokens"), py::arg("logits") = true,
          "Feed up to 64 tokens that follow the first `head` ones. Gives f32 logits [tokens, "
          "columns], or None without logits. Raises InvalidInputError.");
}

}  // namespace sbrt
