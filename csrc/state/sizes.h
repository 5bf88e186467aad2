// Sizes of an engine's state.
#pragma once

namespace sbrt {

constexpr int kMaxSeats = 64;      // sequences in one round: the bits of a word
constexpr int kSlots = 64;         // in-flight slots of a ring, the root's included
constexpr int kMaxChain = 63;      // nodes after the root
constexpr int kMaxRows = 64;       // most rows of a target forward
constexpr int kMaxStepRows = 512;  // most rows of a draft step: all branches and their alternatives
constexpr int kMaxBranches = 64;   // branches of one round
constexpr int kMaxTail = 64;       // slots of one branch: its own token, then its nodes
constexpr int kCandidates = 16;    // candidates of a draft's distribution
constexpr int kMostFound = 16;     // nodes that look-ups add to a drafted chain
// Most trunk tokens that the draft may lack before it must process them.
constexpr int kMostLag = 8;
constexpr int kMatches = 4;  // kinds of match, by length: 1, 2, 3, more tokens
constexpr int kRecords = 8;  // rounds whose records and roll are kept, a small ring
constexpr int kRecordWords = 2 + kSlots;

}  // namespace sbrt
