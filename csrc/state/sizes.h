// Sizes that the state of an engine is made of.
#pragma once

namespace sbrt {

constexpr int kMaxSeats = 64;      // sequences at once: bits of a word
constexpr int kSlots = 64;         // in-flight slots of a ring, the root's included
constexpr int kMaxChain = 63;      // nodes after the root
constexpr int kMaxRows = 64;       // rows of a target's forward
constexpr int kMaxStepRows = 512;  // rows of a draft step: all branches with all their alternatives
constexpr int kMaxBranches = 64;   // branches of one round
constexpr int kMaxTail = 64;       // slots of one branch: its own token, then its nodes
constexpr int kCandidates = 16;    // tokens kept of a draft's law
constexpr int kMostFound = 16;     // nodes that look-ups add to a drafted chain
constexpr int kMostBehind = 8;     // tokens that a draft may lack and still be left alone
constexpr int kMatches = 4;        // kinds of match: of one token, of two, of three, of more
constexpr int kRecords = 8;        // rounds whose records and roll are kept, a small ring
constexpr int kRecordWords = 2 + kSlots;

}  // namespace sbrt
