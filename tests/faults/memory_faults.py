"""Faults in the code for draft and target with separate memories. Their format is that of
faults.py."""

from tests.faults.faults import Fault

TWO = ("decode/test_two_memories.py",)
AUTO = ("decode/test_auto_apart.py",)
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
        "csrc/decode/pump.cc",
        "found.branches = std::max(found.branches, p.branches);",
        "found.branches = std::max(found.branches, p.branches - 1);",
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
        "the target's memory does not learn how much the draft has processed",
        "csrc/state/mail.h",
        "{offsetof(Sequence, draft_have), offsetof(Sequence, branches),",
        "{offsetof(Sequence, draft_nodes), offsetof(Sequence, branches),",
        AUTO,
    ),
    Fault(
        "the draft's memory keeps the policy of the first round",
        "csrc/decode/resources.cc",
        "c.policy = at(seat).policy;",
        "",
        AUTO,
    ),
    Fault(
        "the draft's memory has no prices of nodes",
        "csrc/decode/resources.cc",
        "c.prices = at(seat).prices;",
        "",
        AUTO,
    ),
    Fault(
        "a draft that catches up does not get the tokens that it missed",
        "csrc/decode/prompts.cc",
        "  LaneUnit& draft = r_.draft;\n  r_.tell_trunk(i);",
        "  LaneUnit& draft = r_.draft;",
        AUTO,
    ),
    Fault(
        "a draft that catches up does not count the tokens that it missed",
        "csrc/decode/graphs.cc",
        "if (r_.is_apart()) put(look_, kFollowTrunk, few, ops.clock);",
        "",
        AUTO,
    ),
    Fault(
        "the target is not told that the draft has read the prompt",
        "csrc/decode/prompts.cc",
        "if (!seat.drafted && (!seat.sat_out || seat.catches_up)) r_.tell_have(i);",
        "",
        AUTO,
    ),
    Fault(
        "the target is not told of a piece that ended after the time limit",
        "csrc/decode/prompts.cc",
        "(!seat.sat_out || seat.catches_up)",
        "!seat.sat_out",
        AUTO,
    ),
    Fault(
        "a mail leaves out the scores at the chain's last node",
        "csrc/decode/pump.cc",
        "std::max(found.scored, 1 + most_chain(i))",
        "std::max(found.scored, most_chain(i))",
        TWO,
    ),
    Fault(
        "a draft on the CPU keeps its scores where a device would",
        "csrc/decode/graphs.cc",
        "if (r.scores.is_there() && !r.can(unit).has_host_memory)",
        "if (r.scores.is_there() && r.can(unit).has_host_memory)",
        ("gpu/test_rejection.py",),
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
