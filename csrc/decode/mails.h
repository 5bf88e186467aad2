// The mail between the lanes of an engine, if each has its own memory.
#pragma once

#include "decode/resources.h"
#include "exec/mail.h"

namespace sbrt {

struct Mails {
  Mail verdict{"verdict", 0, 1, {}};  // before `verify_done`
  Mail burst{"burst", 1, 0, {}};      // before `chain_ready`
  Mail offer{"offer", 1, 0, {}};      // before `draft_ready`
};

// They point into the memories of these resources.
Mails mails_of(const Resources& resources);

}  // namespace sbrt
