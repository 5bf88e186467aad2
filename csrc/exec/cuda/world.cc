#include "core/check.h"
#if defined(SBRT_WITH_CUDA) && SBRT_WITH_CUDA
#include "exec/cuda/device_memory.h"
#include "exec/cuda/world.h"

namespace sbrt {

EventBody::EventBody(int device) : word(pinned_block(sizeof(int64_t), device)) {}

EventBody::~EventBody() {
  if (event) static_cast<void>(cudaEventDestroy(event));
}

void EventBody::record(cudaStream_t stream) {
  if (!event)
    checked(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  checked(cudaEventRecord(event, stream), "cudaEventRecord");
}

EventBody& body_of(Event& event, int device) {
  if (!event.body()) {
    const auto body = std::make_shared<EventBody>(device);
    body->enqueued = event.reached();
    event.keep(body, static_cast<std::atomic<int64_t>*>(body->word.host));
  }
  return *static_cast<EventBody*>(event.body());
}

}  // namespace sbrt
#endif
