// Binds single parts of the core for tests and benches, as the module `sbrt._probe`. Each file has
// one function. Classes of this module take objects of `sbrt._core`, which is imported first.
#pragma once

#include <pybind11/pybind11.h>

namespace sbrt {

void bind_accept(pybind11::module_& m);
void bind_choose(pybind11::module_& m);
void bind_lane_probe(pybind11::module_& m);
void bind_matmul_probe(pybind11::module_& m);
void bind_kernel_bench(pybind11::module_& m);
void bind_ring_probe(pybind11::module_& m);
void bind_ops_probe(pybind11::module_& m);
void bind_policy_probe(pybind11::module_& m);
void bind_canary(pybind11::module_& m);  // only in sanitizer builds

}  // namespace sbrt
