// A Graph on a device. It consists of several cudaGraphs, which are made once and can be launched
// any number of times, one after another. Consecutive kernels share one cudaGraph. A captured node
// has one cudaGraph for each of its captured graphs.
#pragma once

#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "exec/captured.h"
#include "exec/cuda/call.h"
#include "exec/exec.h"

namespace sbrt {

struct DestroyGraph {
  void operator()(cudaGraphExec_t made) const { static_cast<void>(cudaGraphExecDestroy(made)); }
};
using MadeGraph = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, DestroyGraph>;

// Returns one cudaGraph with all nodes of `graph`. It contains the captured graphs that a launch
// would pick now.
MadeGraph fused_graph(const Graph& graph, cudaStream_t stream);

class DeviceGraph {
 public:
  // Instantiates and uploads the cudaGraphs on the current device. Throws InvalidInput for an op
  // without a kernel. If the environment has SBRT_GRAPH_DOT=FOLDER, each cudaGraph is also written
  // to FOLDER/NAME-NUMBER.dot.
  DeviceGraph(const Graph& graph, cudaStream_t stream);

  void launch(cudaStream_t stream) const;

 private:
  struct Part {
    // Null: the part is a series of kernels, and `made` has one cudaGraph. Otherwise `made` has a
    // cudaGraph for each of the captured graphs.
    const Captured* captured = nullptr;
    std::vector<MadeGraph> made;
  };
  void add_kernels(const Graph& graph, size_t first, size_t last, cudaStream_t stream);
  void add_captured(const Captured& captured, cudaStream_t stream);
  void make(Part& part, cudaGraph_t graph, cudaStream_t stream);

  std::string range_;
  std::vector<Part> parts_;
};

}  // namespace sbrt
