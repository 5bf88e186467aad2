"""Contract under test: H-RAD on a device (hrad_op.h) computes the same bits as the host's vector
code, if the host's vectors have an fma (hrad_main.cc)."""

import pytest


def test_a_device_s_text_computes_what_the_host_does(programs):
    products = ("ops/kernels", "ops/packed", "ops/quantise", "ops/format")
    products = [part for part in programs.rounds if part.startswith(products)]
    parts = ("core", "exec/exec.cc", *products, "round/hrad.cc")
    done = programs.run(programs.build("hrad_main", parts))
    if done.stdout.startswith("portable"):
        pytest.skip("vectors without an fma")
    assert done.returncode == 0, done.stdout + done.stderr
