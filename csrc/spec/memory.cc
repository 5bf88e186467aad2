// What an engine keeps besides its lanes: the sequence and what it points at, streams, features, scores.
#include "core/check.h"
#include "spec/runtime.h"
#include "state/parts.h"

namespace sbrt {

void Runtime::make_memory() {
  seats_ = exec_->cells<Sequence>(kSeats, Where::device);
  roll_ = exec_->cells<Roll>(1, Where::pinned);
  ended_ = exec_->cells<int64_t>(1, Where::device);
  target_scratch_ = exec_->cells<TargetScratch>(1, Where::device);
  if (models_[1]) draft_scratch_ = exec_->cells<DraftScratch>(1, Where::device);
  records_ = exec_->cells<Records>(kSeats, Where::pinned);
  trunk_ = exec_->cells<int32_t>(config_.max_model_len + kSlots, Where::device);
  sequence_ = seats_.host();
  target_.batch = &target_scratch_.host()->batch;
  target_.scratch_block = &target_scratch_.block();
  if (models_[1]) {
    draft_.batch = &draft_scratch_.host()->batch;
    draft_.scratch_block = &draft_scratch_.block();
  }
  sequence_->trunk = trunk_.device();
  if (!config_.tuned.empty()) {
    ranks_ = exec_->cells<uint8_t>(config_.max_model_len + kSlots, Where::device);
    sequence_->rank = ranks_.device();
  }
  exec_->watch(watched(seats_.device()));
  exec_->watch(watched(target_scratch_.device()));
  if (models_[1]) exec_->watch(watched(draft_scratch_.device()));
}

void Runtime::make_streams() {
  const auto stream = [this](const char* name, bool urgent) {
    return exec_->stream(config_.num_threads, {name, urgent, config_.nvtx});
  };
  target_.stream = stream("target", !config_.draft_first);
  if (models_[1]) draft_.stream = stream("draft", config_.draft_first);
}

// What the host wrote, for the ops of what is enqueued from here on.
void Runtime::send_sequence() {
  exec_->note("send_sequence", {{}, all_parts()});
  exec_->upload(seats_.block(), sizeof(Sequence));
  exec_->upload(ended_.block(), sizeof(int64_t));
}

void Runtime::make_features() {
  if (!config_.hrad && !config_.keep_features) return;
  const int64_t width = target_.lane->feature_width();
  check<InvalidInput>(width > 0, "hrad: expected a target that keeps features, this one has none");
  if (config_.hrad)
    check<InvalidInput>(config_.hrad->hidden() == width, "hrad: made for a target of hidden size ",
                        config_.hrad->hidden(), ", this one's is ", width);
  if (exec_->is_device()) {
    hrad_memory_ = HradMemory(*exec_, config_.hrad.get(), width, config_.keep_features);
    return;
  }
  features_ = Buffer<float>(Hrad::room(width));
  hrad_scratch_ = Buffer<float>(Hrad::kScratch);
}

void Runtime::make_scores() {
  if (!config_.rejection) return;
  const bool drafts = draft_.lane != nullptr;
  const RingShape shape = drafts ? draft_.lane->ring_shape() : RingShape{};
  accept_ = AcceptMemory(config_.vocab, drafts ? shape.branches : 0, drafts ? shape.tail_slots : 0);
  sequence_->scores = accept_.scores();
}

std::vector<float> Runtime::features() const {
  check<InvalidInput>(round_ == committed_round_, "features: expected no round in flight");
  const Cells<float>& shown = hrad_memory_.shown();
  if (shown.size() > 0) return {shown.host(), shown.host() + shown.size()};
  check<InvalidInput>(features_.size() > 0, "features: expected a runtime that keeps them");
  return {features_.data(), features_.data() + Hrad::inputs(target_.lane->feature_width())};
}

}  // namespace sbrt
