#include "ops/format.h"

#include <algorithm>

#include "core/check.h"

namespace sbrt {

void check_format(const Format& f) {
  if (!f.quantised()) {
    check<InvalidInput>(f == Format{f.element}, "format: expected floats without group, scales,",
                        " minimums and zero");
    return;
  }
  const bool is_int4 = f.element == Element::int4;
  const bool is_group = f.group == 32 || f.group == 64 || f.group == 128;
  check<InvalidInput>(is_group || (f.group == 16 && !is_int4),
                      "format: group: expected 32, 64, 128", is_int4 ? "" : " or 16", " but got ",
                      f.group);
  check<InvalidInput>(f.scales != Number::none, "format: expected scales but got none");
  check<InvalidInput>(f.zero == 0 || (f.zero == 8 && is_int4 && f.minimums == Number::none),
                      "format: zero: expected 0, or 8 in int4 without minimums, but got ", f.zero);
}

Format format_named(std::string_view name) {
  switch (element_named(name)) {
    case Element::f32:
      return kFloat32;
    case Element::bf16:
      return kBfloat16;
    case Element::int8:
      return kInt8;
    default:
      return kInt4;
  }
}

Format join(const Format& a, const Format& b) {
  if (a == b) return a;
  if (!a.quantised() || !b.quantised()) return kFloat32;
  Format both{Element::int8, std::min(a.group, b.group), std::max(a.scales, b.scales),
              std::max(a.minimums, b.minimums)};
  if (a.element == Element::int4 && b.element == Element::int4 && a.zero == b.zero) {
    both.element = Element::int4;
    both.zero = a.zero;
  }
  return both;
}

Element element_named(std::string_view name) {
  if (name == "float32") return Element::f32;
  if (name == "bfloat16") return Element::bf16;
  if (name == "int8") return Element::int8;
  if (name == "int4") return Element::int4;
  throw InvalidInput(
      sentence("weight storage: expected float32, bfloat16, int8 or int4 but got ", name));
}

Number number_named(std::string_view name) {
  if (name == "none") return Number::none;
  if (name == "float16") return Number::f16;
  if (name == "float32") return Number::f32;
  throw InvalidInput(sentence("format: expected numbers none, float16 or float32 but got ", name));
}

}  // namespace sbrt
