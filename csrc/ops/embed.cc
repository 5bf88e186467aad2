#include "ops/embed.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace sbrt {

EmbedTable::EmbedTable(DType storage, int64_t vocab, int64_t hidden)
    : storage_(storage), vocab_(vocab), hidden_(hidden) {
  const int64_t size = checked_mul(vocab, hidden);
  checked_mul(size, sizeof(float));
  if (storage == DType::f32) {
    wide_ = Buffer<float>(size, PageSize::large);
  } else {
    narrow_ = Buffer<uint16_t>(size, PageSize::large);
  }
}

void EmbedTable::fill(const TensorView& w) {
  check_equal("embedding: elements", vocab_ * hidden_, w.size());
  for (int64_t i = 0; i < w.size(); ++i) {
    if (storage_ == DType::f32) {
      wide_[i] = w.at(i);
    } else {
      narrow_[i] = to_bf16(w.at(i));
    }
  }
}

void EmbedTable::read(int64_t token, float* out) const {
  const int64_t from = token * hidden_;
  if (packed_) return packed_->read(token, out);
  if (storage_ == DType::f32) {
    std::copy_n(wide_.data() + from, hidden_, out);
  } else {
    for (int64_t i = 0; i < hidden_; ++i) out[i] = from_bf16(narrow_[from + i]);
  }
}

namespace {

double rope_angle(int64_t position, float inv_freq) {
  if (position < int64_t{1} << 24) return static_cast<float>(position) * inv_freq;
  return static_cast<double>(position) * static_cast<double>(inv_freq);
}

}  // namespace

void embed(const EmbedArgs& a, Worker worker) {
  const Interval mine = worker.share(a.rows->n);
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    const Row& row = a.rows->row[i];
    const bool known = row.token >= 0 && row.token < a.table->vocab();
    check(known || row.slot < 0, "embedding: expected a token from 0 to ", a.table->vocab() - 1,
          " but got ", row.token);
    float* x = a.x + i * a.table->hidden();
    a.table->read(known ? row.token : 0, x);
    if (a.factor != 1)
      for (int64_t j = 0; j < a.table->hidden(); ++j) x[j] *= a.factor;
  }
}

void find_angles(const AngleArgs& a, Worker worker) {
  const Interval mine = worker.share(a.rows->n);
  for (int64_t i = mine.begin; i < mine.end; ++i)
    for (int64_t j = 0; j < a.half; ++j) {
      const double angle = rope_angle(a.rows->row[i].position, a.inv_freq[j]);
      a.cosines[i * a.half + j] = static_cast<float>(std::cos(angle)) * a.scale;
      a.sines[i * a.half + j] = static_cast<float>(std::sin(angle)) * a.scale;
    }
}

}  // namespace sbrt
