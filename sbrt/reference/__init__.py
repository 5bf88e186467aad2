"""The whole decoding algorithm in plain Python, with toy models. Tests compare the engine with it.

The reference shares no code with the engine. It does the arithmetic step by step in float32 and
double. So tests can compare results with `==`.
toy: the toy model, its sampling noise and its exp function.
dist: a lane's distribution after a prefix.
tree: chains and tails.
accept: the acceptance rule `rejection`.
lookup: n-gram look-ups.
play: the rounds of a sequence.
logprobs: the log-probs of a sequence's tokens.
"""

from .dist import Shaping, raw_softmax, top_tokens
from .logprobs import logprobs
from .play import Stats, generate
from .toy import Sampling, Toy, gumbel_noise, philox
from .tree import Policy, Room, room_of

__all__ = [
    "Policy",
    "Room",
    "Sampling",
    "Shaping",
    "Stats",
    "Toy",
    "generate",
    "gumbel_noise",
    "logprobs",
    "philox",
    "raw_softmax",
    "room_of",
    "top_tokens",
]
