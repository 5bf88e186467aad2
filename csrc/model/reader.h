// Computes a model's logits along a known text, without an engine.
#pragma once

#include <memory>
#include <vector>

#include "exec/runner.h"
#include "model/lane.h"

namespace sbrt {

// Only one thread at a time may use a reader.
class LogitReader {
 public:
  static constexpr int32_t kRows = 64;  // most rows of one forward

  // longest: the most tokens of a text.
  LogitReader(std::shared_ptr<Model> model, int64_t longest, int32_t threads);

  // Feeds 1 to kRows tokens that follow the first `head` ones. Throws InvalidInput.
  void forward(int64_t head, const std::vector<int32_t>& tokens, bool with_logits);
  // [rows(), columns()] f32 of the last forward with logits.
  const float* logits() const { return lane_->logits(); }
  int64_t rows() const { return batch_.n; }
  int64_t columns() const { return lane_->columns().n; }

 private:
  std::shared_ptr<Model> model_;
  int64_t longest_, fed_ = 0;  // most tokens of a text; number of tokens fed so far
  std::unique_ptr<Lane> lane_;
  Batch batch_{};
  Graph with_logits_{"reader.forward"}, keys_only_{"reader.keys"};
  int32_t threads_;
  Runner runner_;  // last, so that its threads end before the data that they read
};

}  // namespace sbrt
