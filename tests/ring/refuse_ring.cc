// Prints the messages of KvRing's constructor for invalid shapes, one line per shape.
#include <cstdio>

#include "core/check.h"
#include "ring/ring.h"

namespace {

using namespace sbrt;

// Prints one line for a shape: its name, then the kind and the text of the error.
void try_shape(const char* name, const RingShape& shape) {
  try {
    KvRing ring(shape, true);
    std::printf("%s: accepted\n", name);
  } catch (const InvalidInput& e) {
    std::printf("%s: InvalidInput: %s\n", name, e.what());
  } catch (const Error& e) {
    std::printf("%s: Error: %s\n", name, e.what());
  }
}

}  // namespace

int main() {
  const RingShape good{.capacity = 73,
                       .window = 10,
                       .branches = 2,
                       .tail_slots = 4,
                       .layers = 2,
                       .kv_heads = 2,
                       .head_dim = 8};
  try_shape("exactly the dist", good);
  const auto with = [&good](auto member, auto value) {
    RingShape shape = good;
    shape.*member = value;
    return shape;
  };
  const int64_t huge = int64_t{1} << 40, most = INT64_MAX;
  try_shape("one below the dist", with(&RingShape::capacity, 72));
  try_shape("capacity 0", with(&RingShape::capacity, 0));
  try_shape("capacity negative", with(&RingShape::capacity, -1));
  try_shape("capacity huge", with(&RingShape::capacity, huge));
  try_shape("capacity largest", with(&RingShape::capacity, most));
  try_shape("window 0", with(&RingShape::window, 0));
  try_shape("window negative", with(&RingShape::window, -5));
  try_shape("window largest", with(&RingShape::window, most));
  try_shape("branches negative", with(&RingShape::branches, -1));
  try_shape("branches 65", with(&RingShape::branches, 65));
  try_shape("tail slots negative", with(&RingShape::tail_slots, -1));
  try_shape("tail slots 65", with(&RingShape::tail_slots, 65));
  try_shape("layers 0", with(&RingShape::layers, 0));
  try_shape("kv_heads 0", with(&RingShape::kv_heads, 0));
  try_shape("head_dim 0", with(&RingShape::head_dim, 0));
  try_shape("head_dim negative", with(&RingShape::head_dim, -8));
  RingShape wide = with(&RingShape::capacity, int64_t{1} << 29);
  wide.layers = wide.kv_heads = wide.head_dim = 1 << 16;
  try_shape("size overflows", wide);
  wide.layers = 1 << 10;
  wide.kv_heads = wide.head_dim = 1 << 8;
  try_shape("size beyond memory", wide);
}
