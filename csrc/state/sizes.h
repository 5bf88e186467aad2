// Sizes of the parts of an engine's state.
#pragma once

namespace sbrt {

// Largest number of sequences in one round. Each of them is one bit of a 64-bit word.
constexpr int kMaxSeats = 64;
constexpr int kSlots = 64;     // number of in-flight slots of a ring, including the root's
constexpr int kMaxChain = 63;  // largest number of chain nodes after the root
constexpr int kMaxRows = 64;   // largest number of rows of a target forward
// Largest number of rows of a draft step, over all branches.
constexpr int kMaxStepRows = 512;
constexpr int kMaxBranches = 64;  // largest number of branches of one round
// Largest number of slots of a branch: node 0, which holds the outcome's token, then its nodes.
constexpr int kMaxTail = 64;
constexpr int kCandidates = 16;  // number of candidates in a distribution of the draft
constexpr int kMostFound = 16;   // largest number of nodes that look-ups add to a drafted chain
// Largest number of trunk tokens that the draft may lack. If it lacks more, it must catch up.
constexpr int kMostLag = 8;
constexpr int kMatches = 4;  // number of kinds of match: length 1, 2, 3, or more tokens
// Number of rounds whose records and rolls are kept, in a ring buffer.
constexpr int kRecords = 8;
constexpr int kRecordWords = 2 + kSlots;

}  // namespace sbrt
