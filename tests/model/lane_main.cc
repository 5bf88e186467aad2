// Prints hashes of a small decoder's logits on one instruction set (test_lane_bits.py). There is
// one line for each format of the weights, with float and with integer activations. Exits with 1 if
// forwards of one row, or on two threads, compute other bits.
#include <cstdio>
#include <cstring>
#include <vector>

#include "model/decoder.h"
#include "exec/runner.h"

namespace sbrt {
namespace {

DecoderConfig small_config() {
  DecoderConfig c;
  c.hidden = 64, c.inner = 96, c.layers = 2;
  c.heads = 4, c.kv_heads = 2, c.head_dim = 32;
  c.vocab = 131, c.max_positions = 4096;
  c.rms_eps = 1e-5, c.rope_theta = 1e4;
  c.window = 100;
  c.qkv_bias = c.head_norms = true;
  return c;
}
const DecoderConfig kConfig = small_config();
constexpr int kTokens = 300, kChunk = 60;  // number of tokens; enough that the ring wraps

uint64_t state = 1;
float number() {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<float>(static_cast<int>(state >> 33) % 2049 - 1024) / 1024;
}

void load(Decoder& decoder, const std::string& name, int64_t rows, int64_t columns) {
  std::vector<float> values(rows * columns);
  const bool is_norm = name.find("norm") != std::string::npos;
  for (auto& x : values) x = is_norm ? 1 + number() / 4 : number() / 2;
  const int dims = is_norm || name.find("bias") != std::string::npos ? 1 : 2;
  decoder.weights().load(name, {values.data(), DType::f32, {rows, columns}, dims});
}

void load_layer(Decoder& decoder, const std::string& at) {
  const DecoderConfig& c = kConfig;
  load(decoder, at + "input_layernorm.weight", c.hidden, 1);
  load(decoder, at + "post_attention_layernorm.weight", c.hidden, 1);
  const std::pair<const char*, int64_t> projections[] = {
      {"q", c.q_size()}, {"k", c.kv_size()}, {"v", c.kv_size()}};
  for (const auto& [name, size] : projections) {
    load(decoder, at + "self_attn." + name + "_proj.weight", size, c.hidden);
    load(decoder, at + "self_attn." + name + "_proj.bias", size, 1);
  }
  load(decoder, at + "self_attn.q_norm.weight", c.head_dim, 1);
  load(decoder, at + "self_attn.k_norm.weight", c.head_dim, 1);
  load(decoder, at + "self_attn.o_proj.weight", c.hidden, c.q_size());
  load(decoder, at + "mlp.gate_proj.weight", c.inner, c.hidden);
  load(decoder, at + "mlp.up_proj.weight", c.inner, c.hidden);
  load(decoder, at + "mlp.down_proj.weight", c.hidden, c.inner);
}

std::shared_ptr<Decoder> decoder_of(const char* storage, const char* isa, bool integers) {
  auto made =
      std::make_shared<Decoder>(kConfig, WeightFormats{format_named(storage)}, isa, integers);
  state = 1;
  load(*made, "model.embed_tokens.weight", kConfig.vocab, kConfig.hidden);
  load(*made, "model.norm.weight", kConfig.hidden, 1);
  load(*made, "lm_head.weight", kConfig.vocab, kConfig.hidden);
  for (int64_t i = 0; i < kConfig.layers; ++i)
    load_layer(*made, "model.layers." + std::to_string(i) + ".");
  made->finish();
  return made;
}

// Returns the logits of the last kChunk of all kTokens tokens. Each forward has `rows` rows and
// runs on `threads` threads.
std::vector<float> logits_of(const Decoder& decoder, int rows, int threads) {
  const auto lane = decoder.bind({.max_len = kTokens, .max_rows = kChunk, .threads = threads});
  Batch table{};
  Graph graph{"test.forward"};
  lane->add_forward(graph, &table, true);
  Runner runner(threads);
  std::vector<float> out;
  for (int head = 0; head < kTokens; head += rows) {
    table.head[0] = head;
    table.first[1] = rows;
    table.n = rows;
    for (int i = 0; i < rows; ++i)
      table.row[i] = {head + i,
                      (head + i) * 37 % 131,
                      static_cast<int32_t>(lane->ring_shape().slot(0, head + i)),
                      -1,
                      static_cast<int16_t>(i),
                      0,
                      Mask::upto(i + 1),
                      Mask::none()};
    runner.run(graph, threads);
    if (head >= kTokens - kChunk)
      out.insert(out.end(), lane->logits(), lane->logits() + rows * kConfig.vocab);
  }
  return out;
}

bool print_logits(const char* storage, const char* isa, bool integers) {
  const auto decoder = decoder_of(storage, isa, integers);
  const std::vector<float> found = logits_of(*decoder, kChunk, 1);
  const size_t bytes = found.size() * sizeof(float);
  uint64_t hash = 14695981039346656037u;
  for (size_t i = 0; i < bytes; ++i)
    hash = (hash ^ reinterpret_cast<const uint8_t*>(found.data())[i]) * 1099511628211u;
  std::printf("%s %s: %016llx %.9g\n", storage, integers ? "integers" : "floats",
              static_cast<unsigned long long>(hash), static_cast<double>(found.back()));
  return std::memcmp(found.data(), logits_of(*decoder, 1, 1).data(), bytes) == 0 &&
         std::memcmp(found.data(), logits_of(*decoder, 5, 2).data(), bytes) == 0;
}

}  // namespace
}  // namespace sbrt

// Without an argument: prints the names of the instruction sets. With the name of a set: prints its
// hashes.
int main(int argc, char** argv) {
  if (argc < 2) {
    for (const sbrt::Kernels* each : sbrt::kernels_here()) std::printf("%s\n", each->name);
    return 0;
  }
  bool good = true;
  for (const char* storage : {"float32", "bfloat16", "int8", "int4"})
    good &= sbrt::print_logits(storage, argv[1], false);
  for (const char* storage : {"int8", "int4"}) good &= sbrt::print_logits(storage, argv[1], true);
  if (!good) std::fprintf(stderr, "rows alone or two threads give other logits\n");
  return good ? 0 : 1;
}
