"""Faults in the code for draft and target with separate memories. Their format is that of
faults.py."""

from tests.faults.faults import Fault

TWO = ("decode/test_two_memories.py",)
FAULTS = (
    Fault(
        "the target does not tell the draft's memory the outcome",
        "csrc/round/round.cc",
        "tell(t, target.verdict, ",
        "tell(t, nullptr, ",
        TWO,
    ),
    Fault(
        "a serial burst stays in the draft's memory",
        "csrc/round/round.cc",
        "tell(d, draft->burst_mail, ",
        "tell(d, nullptr, ",
        TWO,
    ),
    Fault(
        "the branches stay in the draft's memory",
        "csrc/round/round.cc",
        "tell(d, draft->offer, ",
        "tell(d, nullptr, ",
        TWO,
    ),
    Fault(
        "the last branch stays in the draft's memory",
        "csrc/decode/mails.cc",
        "offer_range(r.config.max_branches)",
        "offer_range(r.config.max_branches - 1)",
        TWO,
    ),
    Fault(
        "a penalty counts the outcome's last token twice in the draft's memory",
        "csrc/round/settle_op.h",
        "for (; c.followed <= c.head; ++c.followed) {",
        "for (c.followed = least(c.followed, c.head); c.followed <= c.head; ++c.followed) {",
        TWO,
    ),
    Fault(
        "the draft reads rows of the target's",
        "csrc/round/op_table.inc",
        "(settings, outcome, chain, chain_dist),\n        (branches, draft_rows))",
        "(settings, outcome, chain, chain_dist, target_rows),\n        (branches, draft_rows))",
        TWO,
    ),
    Fault(
        "an op may access both memories",
        "csrc/exec/sim/own_memory.h",
        "place == kAll || place == its ? PROT_READ | PROT_WRITE : PROT_NONE",
        "PROT_READ | PROT_WRITE",
        ("exec/test_memories.py",),
    ),
    Fault(
        "an event is recorded with another device selected",
        "csrc/exec/cuda/cuda_stream.cc",
        "  const OnDevice here(device_);\n  return queue_",
        "  return queue_",
        ("exec/cuda/test_trace.py",),
    ),
    Fault(
        "a worker that waits for a device never looks for errors",
        "csrc/exec/cuda/host_stream.cc",
        "if (turn % kNaps == 0) look();",
        "",
        ("exec/cuda/test_host_lane.py",),
    ),
    Fault(
        "half-written mail of a draft that threw goes to the device",
        "csrc/exec/cpu/cpu_stream.cc",
        "} else if (!failure_.raised()) {\n    try {",
        "} else {\n    try {",
        ("exec/cuda/test_host_lane.py",),
    ),
    Fault(
        "a pinned team has every thread on its first core",
        "csrc/exec/cpu/cores.cc",
        "pin(pinned[rank]);",
        "pin(pinned[rank * 0]);",
        ("exec/test_pinned.py",),
    ),
)
