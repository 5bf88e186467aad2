// Computes a model's logits for a given text, without an engine.
#pragma once

#include <memory>
#include <vector>

#include "exec/runner.h"
#include "model/lane.h"

namespace sbrt {

// Computes logits for texts. Only one thread at a time may use a reader.
class LogitReader {
 public:
  static constexpr int32_t kRows = 64;  // largest number of rows of one forward

  // longest: the largest number of tokens that a text may have.
  LogitReader(std::shared_ptr<Model> model, int64_t longest, int32_t threads);

  // Feeds 1 to kRows tokens, which follow the first `head` tokens of the text. Throws InvalidInput.
  void forward(int64_t head, const std::vector<int32_t>& tokens, bool with_logits);
  // Returns the logits of the last forward with logits, [rows(), columns()] f32.
  const float* logits() const { return lane_->logits(); }
  int64_t rows() const { return batch_.n; }
  int64_t columns() const { return lane_->columns().n; }

 private:
  std::shared_ptr<Model> model_;
  int64_t longest_, fed_ = 0;  // limit of the text's length, and number of tokens fed so far
  std::unique_ptr<Lane> lane_;
  Batch batch_{};
  Graph with_logits_{"reader.forward"}, keys_only_{"reader.keys"};
  int32_t threads_;
  // Declared last. So its threads end before the members that they read are destroyed.
  Runner runner_;
};

}  // namespace sbrt
