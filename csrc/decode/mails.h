// The messages between the lanes of an engine whose lanes have separate memories.
#pragma once

#include "decode/resources.h"
#include "exec/mail.h"

namespace sbrt {

struct Mails {
  Mail verdict{"verdict", 0, 1, {}};  // sent before the fence `verify_done` is recorded
  Mail burst{"burst", 1, 0, {}};      // sent before the fence `chain_ready` is recorded
  Mail offer{"offer", 1, 0, {}};      // sent before the fence `draft_ready` is recorded
};

// Returns messages whose copies point into the memories of `resources`.
Mails mails_of(const Resources& resources);

}  // namespace sbrt
