// Memory of H-RAD's classifier on the ops' device: weights, inputs, outputs of the first layer.
#pragma once

#include "exec/exec.h"
#include "round/hrad.h"
#include "round/op_args.h"

namespace sbrt {

class HradMemory {
 public:
  HradMemory() = default;
  // If `hrad` is null, only the classifier's inputs are allocated. shown: the host can read these
  // inputs.
  HradMemory(Exec& exec, const Hrad* hrad, int64_t hidden, size_t seats, bool shown);

  bool is_there() const { return x_.size() > 0; }
  const Cells<float>& shown() const { return shown_; }
  HradArgs args(const Seats& seats, const Batch* batch, const FeatureMemory& target) const;

 private:
  struct Layer {
    Cells<uint32_t> panels;
    Cells<float> bias;
  };

  Layer layers_[kHradLayers];
  Cells<float> x_, inner_, shown_;
};

}  // namespace sbrt
