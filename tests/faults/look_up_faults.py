"""Faults in the code for look-ups inside a round. Their format is that of faults.py."""

from tests.faults.faults import Fault

FAULTS = (
    Fault(
        "a sequence believes in look-ups as much as the one that had its seat before",
        "csrc/decode/resources.cc",
        "  c.hindsight = {};\n",
        "",
        ("decode/test_same_as_reference.py",),
    ),
    Fault(
        "a node is appended without its ancestors in its mask",
        "csrc/round/chain.h",
        "chain.mask[i] = chain.mask[parent].with(i);",
        "chain.mask[i] = chain.mask[0].with(i);",
        ("decode/test_same_as_reference.py",),
    ),
    Fault(
        "under rejection a looked-up node counts as drawn",
        "csrc/round/join_op.h",
        "  chain.known = chain.known.with(node);\n",
        "",
        ("decode/test_same_as_reference.py",),
    ),
    Fault(
        "look-ups add a node more than the rows of the graph have room for",
        "csrc/round/join_op.h",
        "while (join.s.known < kMostFound && chain.size < kMaxChain) {",
        "while (join.s.known <= kMostFound && chain.size < kMaxChain) {",
        ("decode/test_same_as_reference.py",),
    ),
)
