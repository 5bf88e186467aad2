#include "core/check.h"
#if defined(SBRT_WITH_CUDA) && SBRT_WITH_CUDA
#include <cstdlib>

#include "exec/cuda/device_graph.h"

namespace sbrt {
namespace {

// Destroys the description of a graph whatever happens on the way.
struct Description {
  cudaGraph_t graph = nullptr;

  Description() { checked(cudaGraphCreate(&graph, 0), "cudaGraphCreate"); }
  ~Description() { static_cast<void>(cudaGraphDestroy(graph)); }
  Description(const Description&) = delete;
};

// Behind `before`, if there is one: the nodes of a Graph are a list.
cudaGraphNode_t add_kernel(cudaGraph_t graph, const Graph::Node& node,
                           const cudaGraphNode_t* before) {
  cudaGraphNode_t made = nullptr;
  void* parameter = const_cast<std::byte*>(node.args);
  cudaKernelNodeParams kernel{};
  kernel.func = const_cast<void*>(node.kernel);
  kernel.gridDim = dim3(node.blocks);
  kernel.blockDim = dim3(node.threads);
  kernel.kernelParams = &parameter;
  checked(cudaGraphAddKernelNode(&made, graph, before, before ? 1 : 0, &kernel),
          "cudaGraphAddKernelNode");
  return made;
}

void write_dot(cudaGraph_t graph, const std::string& name) {
  const char* folder = std::getenv("SBRT_GRAPH_DOT");
  if (!folder) return;
  const std::string path = std::string(folder) + "/" + name + ".dot";
  checked(cudaGraphDebugDotPrint(graph, path.c_str(), cudaGraphDebugDotFlagsVerbose),
          "cudaGraphDebugDotPrint");
}

}  // namespace

DeviceGraph::DeviceGraph(const Graph& graph, cudaStream_t stream)
    : range_(std::string("sbrt.") + graph.name()) {
  const auto& nodes = graph.nodes();
  for (size_t i = 0; i < nodes.size();) {
    if (nodes[i].captured) {
      add_captured(*nodes[i++].captured, stream);
      continue;
    }
    const size_t first = i;
    while (i < nodes.size() && !nodes[i].captured) ++i;
    add_kernels(graph, first, i, stream);
  }
}

void DeviceGraph::add_kernels(const Graph& graph, size_t first, size_t last, cudaStream_t stream) {
  const Description described;
  cudaGraphNode_t before = nullptr;
  for (size_t i = first; i < last; ++i) {
    const Graph::Node& node = graph.nodes()[i];
    check<InvalidInput>(node.kernel, "graph ", graph.name(), ": expected ops with a kernel, ",
                        node.name ? node.name : "an op", " has none on cuda");
    before = add_kernel(described.graph, node, before ? &before : nullptr);
  }
  make(parts_.emplace_back(), described.graph, stream);
}

void DeviceGraph::add_captured(const Captured& captured, cudaStream_t stream) {
  captured.check_whole(range_.c_str());
  Part& part = parts_.emplace_back();
  part.captured = &captured;
  for (void* graph : captured.graphs) make(part, static_cast<cudaGraph_t>(graph), stream);
}

void DeviceGraph::make(Part& part, cudaGraph_t graph, cudaStream_t stream) {
  write_dot(graph, sentence(range_, "-", parts_.size(), "-", part.made.size()));
  cudaGraphExec_t made = nullptr;
  checked(cudaGraphInstantiate(&made, graph, 0), "cudaGraphInstantiate");
  part.made.emplace_back(made);
  checked(cudaGraphUpload(made, stream), "cudaGraphUpload");
}

void DeviceGraph::launch(cudaStream_t stream) const {
  for (const Part& part : parts_) {
    const int at = part.captured ? part.captured->picked() : 0;
    checked(cudaGraphLaunch(part.made[at].get(), stream), "cudaGraphLaunch");
  }
}

}  // namespace sbrt
#endif
