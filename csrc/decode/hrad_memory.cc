#include "decode/hrad_memory.h"

#include <cstring>

namespace sbrt {
namespace {

template <class T>
Cells<T> sent(Exec& exec, const void* data, size_t bytes) {
  auto cells = exec.cells<T>(bytes / sizeof(T), Where::device);
  std::memcpy(cells.host(), data, bytes);
  exec.upload(cells, 0, cells.size());
  return cells;
}

}  // namespace

HradMemory::HradMemory(Exec& exec, const Hrad* hrad, int64_t hidden, size_t seats, bool shown) {
  const auto inputs = seats * static_cast<size_t>(hrad_inputs(hidden));
  x_ = exec.cells<float>(seats * static_cast<size_t>(Hrad::room(hidden)), Where::device);
  if (shown) shown_ = exec.cells<float>(inputs, Where::pinned);
  for (int i = 0; hrad && i < kHradLayers; ++i) {
    const Hrad::Layer& layer = hrad->layer(i);
    const auto bytes = static_cast<size_t>(layer.matrix.bytes());
    layers_[i] = {sent<uint32_t>(exec, layer.matrix.panels(), bytes),
                  sent<float>(exec, layer.bias.data(), layer.bias.size() * sizeof(float))};
  }
  if (hrad) inner_ = exec.cells<float>(seats * kHradInner, Where::device);
}

HradArgs HradMemory::args(const Seats& seats, const Batch* batch,
                          const FeatureMemory& target) const {
  HradArgs args{seats, batch, target, x_.device(), shown_.device(), inner_.device(), {}};
  for (int i = 0; i < kHradLayers; ++i)
    args.layer[i] = {layers_[i].panels.device(), layers_[i].bias.device()};
  return args;
}

}  // namespace sbrt
