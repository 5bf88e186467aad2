#include "model/reader.h"

#include <algorithm>
#include <utility>

#include "core/check.h"

namespace sbrt {

LogitReader::LogitReader(std::shared_ptr<Model> model, int64_t longest, int32_t threads)
    : model_(std::move(model)),
      longest_(longest),
      lane_(model_->bind(LaneShape{longest, kRows, 0, 0, threads, false})),
      threads_(threads),
      runner_(threads) {
  lane_->add_forward(with_logits_, &batch_, true);
  lane_->add_forward(keys_only_, &batch_, false);
}

void LogitReader::forward(int64_t head, const std::vector<int32_t>& tokens, bool with_logits) {
  const auto n = static_cast<int64_t>(tokens.size());
  check_within("reader: tokens", int64_t{1}, int64_t{kRows}, n);
  check_within("reader: head", int64_t{0}, std::min(fed_, longest_ - n), head);
  batch_.head[0] = head;
  batch_.n = static_cast<int32_t>(n);
  for (int64_t j = 0; j < n; ++j) {
    check_within("reader: token", int64_t{0}, model_->vocab() - 1, int64_t{tokens[j]});
    const auto slot = static_cast<int32_t>(lane_->ring_shape().slot(0, head + j));
    const Mask before = Mask::upto(static_cast<int>(j) + 1);
    batch_.row[j] = {head + j, tokens[j], slot, -1, -1, 0, before, Mask::none()};
  }
  runner_.run(with_logits ? with_logits_ : keys_only_, threads_);
  fed_ = head + n;
}

}  // namespace sbrt
