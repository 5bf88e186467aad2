// A Graph on a device: several cudaGraphs, which are made once and launched one after another, any
// number of times. Consecutive kernels share one cudaGraph. A captured node has one for each of its
// captured graphs.
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

// Returns all of `graph` as one cudaGraph, with the captured graphs that are picked now.
MadeGraph fused_graph(const Graph& graph, cudaStream_t stream);

class DeviceGraph {
 public:
  // Instantiates and uploads the cudaGraphs on the current device. Throws InvalidInput for an op
  // without a kernel.
  // With SBRT_GRAPH_DOT=FOLDER each cudaGraph is also written to FOLDER/NAME-NUMBER.dot.
  DeviceGraph(const Graph& graph, cudaStream_t stream);

  void launch(cudaStream_t stream) const;

 private:
  struct Part {
    const Captured* captured = nullptr;  // null: `made` has one graph, of kernels
    std::vector<MadeGraph> made;
  };
  void add_kernels(const Graph& graph, size_t first, size_t last, cudaStream_t stream);
  void add_captured(const Captured& captured, cudaStream_t stream);
  void make(Part& part, cudaGraph_t graph, cudaStream_t stream);

  std::string range_;
  std::vector<Part> parts_;
};

}  // namespace sbrt
