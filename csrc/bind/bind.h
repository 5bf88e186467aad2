// Binds the classes of the module `sbrt._core`. Each file of this folder binds one class, in one
// function.
#pragma once

#include <pybind11/pybind11.h>

namespace sbrt {

void bind_errors(pybind11::module_& m);
void bind_sizes(pybind11::module_& m);
void bind_capabilities(pybind11::module_& m);
void bind_model(pybind11::module_& m);
void bind_decoder(pybind11::module_& m);
void bind_toy(pybind11::module_& m);
void bind_recorded(pybind11::module_& m);
void bind_sampling(pybind11::module_& m);
void bind_shaping(pybind11::module_& m);
void bind_costs(pybind11::module_& m);
void bind_hrad(pybind11::module_& m);
void bind_order(pybind11::module_& m);
void bind_quantise(pybind11::module_& m);
void bind_reader(pybind11::module_& m);
void bind_engine(pybind11::module_& m);

}  // namespace sbrt
