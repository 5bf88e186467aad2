// Counts the first tokens of many sequences under rejection, like tally.py. Tests compile this
// program with changed sources of csrc.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <vector>

#include "model/toy.h"
#include "decode/engine.h"

namespace {

using namespace sbrt;

class Words {
 public:
  explicit Words(char** argv) : next_(argv + 1) {}
  int integer() { return std::atoi(*next_++); }
  float number() { return static_cast<float>(std::atof(*next_++)); }

 private:
  char** next_;
};

Policy policy(Words& words) {
  Policy p{};
  p.gamma = words.integer();
  p.branches = words.integer();
  p.ranking = words.integer();
  p.width = words.integer();
  p.nodes = words.integer();
  p.epsilon = words.number();
  p.on_miss = words.integer();
  p.burst = words.integer();
  p.burst_width = words.integer();
  p.lookup = words.integer();
  p.rejection = 1;
  return p;
}

RuntimeConfig config() {
  RuntimeConfig c;
  c.max_model_len = 64;
  c.max_branches = 16;
  c.max_width = 4;
  c.backend = Backend::sim;
  c.rejection = true;
  return c;
}

int index(Engine& engine, const Request& request, int cells) {
  engine.begin(request);
  std::vector<int32_t> tokens;
  while (static_cast<int>(tokens.size()) < cells) {
    engine.run(1, 0);
    for (const int32_t token : engine.take(0)) tokens.push_back(token);
  }
  int at = 0;
  for (int i = 0; i < cells; ++i) at = at * 256 + tokens[i];
  return at;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 18) return 2;
  Words words(argv);
  const int sequences = words.integer(), cells = words.integer(), vocab = words.integer();
  ToyConfig target{.vocab = vocab, .seed = 11}, draft{.vocab = vocab + 1, .seed = 11};
  draft.noise16 = words.integer();
  draft.seed += static_cast<uint64_t>(words.integer());
  Request request;
  request.prompt = {1, 0, 1, 0, 1};
  request.sampling = {};
  request.sampling.temperature = words.number();
  request.sampling.top_p = 1;
  request.sampling.top_k = words.integer();
  request.policy = policy(words);
  Engine engine(std::make_shared<Toy>(target), std::make_shared<Toy>(draft), config());
  std::map<int, int> counts;
  for (int seed = 0; seed < sequences; ++seed) {
    request.sampling.seed = static_cast<uint64_t>(seed);
    ++counts[index(engine, request, cells)];
  }
  for (const auto& [at, n] : counts) std::printf("%d %d\n", at, n);
  return 0;
}
