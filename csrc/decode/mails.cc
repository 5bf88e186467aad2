#include "decode/mails.h"

#include "state/mail.h"

namespace sbrt {
namespace {

// Adds copies to a mail: for every seat, the bytes `range` of the seat's Sequence. times: number of
// such ranges that follow each other, read when the mail is sent; null: one.
void put(Mail& mail, const MailRange& range, const Cells<Sequence>& from, const Cells<Sequence>& to,
         const int32_t* times = nullptr) {
  mail.parts.bits |= range.parts.bits;
  for (int seat = 0; seat < static_cast<int>(from.size()); ++seat) {
    const auto* source = reinterpret_cast<const std::byte*>(from.device() + seat);
    auto* target = reinterpret_cast<std::byte*>(to.device() + seat);
    mail.copies.push_back(
        {source + range.begin, target + range.begin, range.bytes(), seat, 1, 0, times});
  }
}

}  // namespace

Mails mails_of(const Resources& r) {
  const LaneMemory &target = *r.target.memory, &draft = *r.draft.memory;
  Mails mails;
  put(mails.verdict, verdict_range(), target.sequences, draft.sequences);
  // The number of finished rounds travels with the verdict. With this number the draft finds the
  // roll of the round.
  mails.verdict.parts.bits |= parts(Part::round).bits;
  mails.verdict.copies.push_back({target.ended.device(), draft.ended.device(), sizeof(int64_t)});
  put(mails.burst, burst_range(), draft.sequences, target.sequences);
  put(mails.offer, offer_range(), draft.sequences, target.sequences);
  put(mails.offer, branch_range(), draft.sequences, target.sequences, &r.launches.branches);
  if (r.scores.is_there())
    for (Mail* mail : {&mails.burst, &mails.offer}) r.scores.add_to(*mail, r.launches.scored);
  return mails;
}

}  // namespace sbrt
