// Messages between the lanes of an engine, if each lane has its own memory.
#pragma once

#include "decode/resources.h"
#include "exec/mail.h"

namespace sbrt {

struct Mails {
  Mail verdict{"verdict", 0, 1, {}};  // sent before the fence `verify_done`
  Mail burst{"burst", 1, 0, {}};      // sent before the fence `chain_ready`
  Mail offer{"offer", 1, 0, {}};      // sent before the fence `draft_ready`
};

// Returns messages that point into the memories of these resources.
Mails mails_of(const Resources& resources);

}  // namespace sbrt
