"""Faults in the code for many seats. Their format is that of faults.py."""

from tests.faults.faults import Fault

SEATS = ("triton_kernels/test_seats.py",)
SITS_OUT = ("decode/test_auto_sits_out.py",)
DIST = ("decode/test_sits_out_dist.py",)
FAULTS = (
    Fault(
        "a draft that sits out keeps its branches and distributions",
        "csrc/decode/pump.cc",
        "  r_.sit_out(i);",
        "",
        SITS_OUT,
    ),
    Fault(
        "the draft of a seat that skips rounds does not sit out",
        "csrc/decode/pump.cc",
        "for_each(tuned, [&](int i) { sit_out_if_idle(i); });",
        "for_each(tuned & members_of_round(), [&](int i) { sit_out_if_idle(i); });",
        SITS_OUT,
    ),
    Fault(
        "a chain of the last policy counts as one of the next",
        "csrc/decode/pump.cc",
        "is_rejection(r_.at(i)) ? most_chain(i) : 0",
        "is_rejection(r_.at(i)) ? most_nodes(p) : 0",
        SITS_OUT,
    ),
    Fault(
        "tokens of a draft that sits out are tried with its old distributions",
        "csrc/round/accept_op.h",
        "const bool sits_out = c.draft_nodes.bits() == 0;",
        "const bool sits_out = false;",
        SITS_OUT,
    ),
    Fault(
        "in company a burst goes on after it pays",
        "csrc/decode/auto/prices.cc",
        "if (alike_ > 1 && arm.kind == ArmKind::serial) ",
        "if (alike_ > kMaxRows) ",
        ("decode/test_tuner.py",),
    ),
    Fault(
        "the tuner takes a sequence's first policy for the last policy of its seat",
        "csrc/decode/auto/tuner.cc",
        "  running_ = stay_ = 0;",
        "  stay_ = 0;",
        ("decode/test_auto.py",),
    ),
    Fault(
        "a draft that sits out keeps its distributions, though not its branches",
        "csrc/decode/resources.cc",
        "    c.draft_nodes = Mask::none();\n    c.branch_count",
        "    c.branch_count",
        DIST,
    ),
    Fault(
        "a token of a round that the draft sits out is drawn from the draft's old scores",
        "csrc/round/accept_op.h",
        "  if (s.n == 0 || sits_out) {\n",
        "  if (sits_out) {\n"
        "    softmax_of(c.scores.chain + int64_t{node} * c.scores.columns, c.scores.ids,\n"
        "               c.scores.columns, place, place.q, s, team);\n"
        "    const double u = uniform(noise_after(c, node, kResidual), 0);\n"
        "    own = draw_from(place.q, place.vocab, u, s, team);\n"
        "  }\n"
        "  if (s.n == 0 || sits_out) {\n",
        DIST,
    ),
    Fault(
        "a row is sampled as the request of the first seat asks",
        "triton_kernels/words.py",
        "return Block + seat.to(tl.int64) * SEQUENCE_WORDS",
        "return Block + seat.to(tl.int64) * 0",
        SEATS,
    ),
    Fault(
        "a row reads the trunk of the first seat",
        "triton_kernels/attention.py",
        "node_slot, storage + ring)",
        "node_slot, ring)",
        SEATS,
    ),
    Fault(
        "a tile has rows of two seats",
        "triton_kernels/visible.py",
        "tile = its_first + (o_row - its_first) // TILE_ROWS * TILE_ROWS",
        "tile = o_row // TILE_ROWS * TILE_ROWS",
        SEATS,
    ),
    Fault(
        "a seat that takes no part is settled again",
        "triton_kernels/settle.py",
        "load_unsigned(p_word + 1, True), seat) != 0",
        "load_unsigned(p_word + 1, True), seat) >= 0",
        SEATS,
    ),
    Fault(
        "a seat that awaited no burst gets a tail that was another's",
        "triton_kernels/settle.py",
        "if not _awaited_burst(Block):",
        "if False:",
        SEATS,
    ),
    Fault(
        "the graph of a launch has room for the rows of one seat only",
        "csrc/decode/row_bounds.h",
        "return std::min(rows + more, most);",
        "return std::max(rows, more);",
        ("gpu/test_seats.py", "decode/test_crowd.py"),
    ),
    Fault(
        "a request overwrites what runs in the other seats",
        "csrc/decode/resources.cc",
        "exec->upload(own.sequences, seat, 1);",
        "exec->upload(memories[0].sequences, 0, count());",
        ("gpu/test_seats.py",),
    ),
    Fault(
        "a round runs ahead by graphs that were picked before a seat joined",
        "csrc/decode/pump.cc",
        "may = launches_of(members, 2) == r_.launches;",
        "may = true;",
        ("gpu/test_seats.py",),
    ),
    Fault(
        "a server says that no token of a prompt was cached",
        "sbrt/server/answers.py",
        "self.cached = output.num_cached_tokens or 0",
        "self.cached = 0",
        ("server/test_routes.py",),
    ),
)
