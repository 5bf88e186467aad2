#include "core/check.h"
#if defined(SBRT_WITH_CUDA) && SBRT_WITH_CUDA
#include <cstdlib>

#include "exec/cuda/device_graph.h"

namespace sbrt {
namespace {

// Owns a cudaGraph_t, and destroys it even if an exception is thrown.
struct Description {
  cudaGraph_t graph = nullptr;

  Description() { checked(cudaGraphCreate(&graph, 0), "cudaGraphCreate"); }
  ~Description() { static_cast<void>(cudaGraphDestroy(graph)); }
  Description(const Description&) = delete;
};

// A cudaGraph whose nodes run one after another, in the order of a Graph's nodes.
class List {
 public:
  void add_kernel(const Graph::Node& node);
  void add_captured(const Captured& captured);
  cudaGraph_t graph() const { return described_.graph; }

 private:
  const cudaGraphNode_t* before() const { return last_ ? &last_ : nullptr; }
  size_t count() const { return last_ ? 1 : 0; }

  Description described_;
  cudaGraphNode_t last_ = nullptr;
};

void List::add_kernel(const Graph::Node& node) {
  cudaGraphNode_t made = nullptr;
  void* parameter = const_cast<std::byte*>(node.args);
  cudaKernelNodeParams kernel{};
  kernel.func = const_cast<void*>(node.kernel);
  kernel.gridDim = dim3(node.blocks);
  kernel.blockDim = dim3(node.threads);
  kernel.kernelParams = &parameter;
  checked(cudaGraphAddKernelNode(&made, graph(), before(), count(), &kernel),
          "cudaGraphAddKernelNode");
  last_ = made;
}

// Adds a copy of the captured graph that a launch would pick now.
void List::add_captured(const Captured& captured) {
  cudaGraphNode_t made = nullptr;
  const auto child = static_cast<cudaGraph_t>(captured.graphs[captured.picked()]);
  checked(cudaGraphAddChildGraphNode(&made, graph(), before(), count(), child),
          "cudaGraphAddChildGraphNode");
  last_ = made;
}

void write_dot(cudaGraph_t graph, const std::string& name) {
  const char* folder = std::getenv("SBRT_GRAPH_DOT");
  if (!folder) return;
  const std::string path = std::string(folder) + "/" + name + ".dot";
  checked(cudaGraphDebugDotPrint(graph, path.c_str(), cudaGraphDebugDotFlagsVerbose),
          "cudaGraphDebugDotPrint");
}

MadeGraph instantiated(cudaGraph_t graph, const std::string& name, cudaStream_t stream) {
  write_dot(graph, name);
  cudaGraphExec_t made = nullptr;
  checked(cudaGraphInstantiate(&made, graph, 0), "cudaGraphInstantiate");
  MadeGraph kept(made);
  checked(cudaGraphUpload(made, stream), "cudaGraphUpload");
  return kept;
}

void check_kernel(const Graph& graph, const Graph::Node& node) {
  check<InvalidInput>(node.kernel, "graph ", graph.name(), ": expected ops with a kernel, ",
                      node.name ? node.name : "an op", " has none on cuda");
}

}  // namespace

MadeGraph fused_graph(const Graph& graph, cudaStream_t stream) {
  List list;
  const std::string name = sentence("sbrt.", graph.name(), "-", graph.nodes().size());
  for (const Graph::Node& node : graph.nodes()) {
    if (node.captured) {
      node.captured->check_whole(graph.name());
      list.add_captured(*node.captured);
      continue;
    }
    check_kernel(graph, node);
    list.add_kernel(node);
  }
  return instantiated(list.graph(), name, stream);
}

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
  List list;
  for (size_t i = first; i < last; ++i) {
    check_kernel(graph, graph.nodes()[i]);
    list.add_kernel(graph.nodes()[i]);
  }
  make(parts_.emplace_back(), list.graph(), stream);
}

void DeviceGraph::add_captured(const Captured& captured, cudaStream_t stream) {
  captured.check_whole(range_.c_str());
  Part& part = parts_.emplace_back();
  part.captured = &captured;
  if (captured.play) return;  // players have no graphs to instantiate
  for (void* graph : captured.graphs) make(part, static_cast<cudaGraph_t>(graph), stream);
}

void DeviceGraph::make(Part& part, cudaGraph_t graph, cudaStream_t stream) {
  const std::string name = sentence(range_, "-", parts_.size(), "-", part.made.size());
  part.made.push_back(instantiated(graph, name, stream));
}

void DeviceGraph::launch(cudaStream_t stream) const {
  for (const Part& part : parts_) {
    const int at = part.captured ? part.captured->picked() : 0;
    if (part.captured && part.captured->play) {
      part.captured->play(part.captured->graphs[at], stream);
      continue;
    }
    checked(cudaGraphLaunch(part.made[at].get(), stream), "cudaGraphLaunch");
  }
}

}  // namespace sbrt
#endif
