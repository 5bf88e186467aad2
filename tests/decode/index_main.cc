// Checks that TrunkIndex finds the same matches as best_match(), which reads the whole trunk. It
// compares them for every prefix of random trunks, which repeat themselves and have vocabularies of
// 1 to 100,000 tokens.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "round/lookup_op.h"
#include "decode/auto/trunk_index.h"

namespace sbrt {
namespace {

std::vector<int32_t> make_trunk(std::mt19937_64& random) {
  constexpr int32_t kVocabs[] = {1, 2, 3, 40, 100'000};
  const int32_t vocab = kVocabs[random() % 5];
  std::vector<int32_t> trunk;
  const size_t length = 1 + random() % 300;
  while (trunk.size() < length) {
    if (trunk.size() > 2 && random() % 8 == 0) {
      const size_t from = random() % trunk.size();
      for (size_t n = random() % 24; n > 0; --n) trunk.push_back(trunk[from + n % 3]);
    }
    trunk.push_back(static_cast<int32_t>(random() % vocab));
  }
  trunk.resize(length);
  return trunk;
}

// Returns the number of matches found, or -1 if the index finds a different one. The index reads
// the trunk in steps of random length. It must also answer for a length inside the last step.
int64_t compare(uint64_t seed, TrunkIndex& index) {
  std::mt19937_64 random(seed);
  const std::vector<int32_t> trunk = make_trunk(random);
  const auto size = static_cast<int64_t>(trunk.size());
  index.clear();
  int64_t matches = 0;
  for (int64_t length = 1, read = 0; length <= size; ++length) {
    if (length > read)
      index.read(trunk.data(), read = std::min<int64_t>(size, length + random() % 9));
    const TextEnd end = end_of(trunk.data(), length);
    const Match want = best_match(trunk.data(), length - 2, end, kShortestMatch, Alone{});
    const Match found = index.match(trunk.data(), length);
    matches += want.length > 0;
    if (found.length == want.length && (found.length == 0 || found.after == want.after)) continue;
    std::printf("FAILED: seed %ld, of %ld tokens: %ld, not %ld\n", long(seed), long(length),
                long(found.after), long(want.after));
    return -1;
  }
  return matches;
}

}  // namespace
}  // namespace sbrt

int main(int argc, char** argv) {
  const int64_t trunks = argc > 1 ? std::atoll(argv[1]) : 100;
  sbrt::TrunkIndex index(300);
  int64_t matches = 0;
  for (int64_t seed = 0; seed < trunks; ++seed) {
    const int64_t found = sbrt::compare(static_cast<uint64_t>(seed), index);
    if (found < 0) return 1;
    matches += found;
  }
  std::printf("%ld matches\n", long(matches));
  return 0;
}
