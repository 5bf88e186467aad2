#include "decode/resources.h"

#include <algorithm>
#include <utility>

#include "core/check.h"
#include "ops/philox.h"
#include "state/parts.h"

namespace sbrt {
namespace {

void bind_unit(LaneUnit& unit, const Model& model, const RuntimeConfig& c, int64_t max_len,
               bool drafts) {
  LaneShape shape;
  shape.max_len = max_len;
  shape.max_rows = kMaxRows;
  shape.seats = c.max_num_seqs;
  if (drafts) {
    // The last drafted nodes take no slot: the draft does not process them.
    const int uneven = c.max_width > 1 ? 2 : 1;  // likely branches grow more than others
    const int slots = 1 + uneven * c.max_width * (c.max_gamma - 1);
    shape.branches = c.max_branches;
    shape.tail_slots = std::clamp(slots, 1, kMaxTail);
    shape.max_rows = std::clamp(c.max_branches * c.max_width, kMaxRows, kMaxStepRows);
    if (c.max_num_seqs > 1) shape.max_rows = std::min(kMaxRows * c.max_num_seqs, kMaxStepRows);
  }
  shape.threads = c.num_threads;
  shape.debug = c.debug;
  shape.features = !drafts && (c.hrad || c.keep_features);
  shape.on_device = !c.can().has_host_memory;
  shape.scores = shape.on_device && c.rejection;
  shape.stream = unit.stream->handle();
  unit.max_rows = shape.max_rows;
  unit.lane = model.bind(shape);
  unit.columns = unit.lane->columns().below(c.vocab);
  for (int i = 0; i < c.num_threads && !shape.on_device; ++i)
    unit.scratch.emplace_back(std::max(model.vocab(), c.vocab));
}

// The chain of a root only.
void start_chain(Chain& chain, int32_t root) {
  chain.size = chain.depth = 0;
  chain.known = Mask::none();
  chain.next[0] = -1;
  chain.token[0] = root;
  chain.parent[0] = -1;
  chain.level[0] = 0;
  chain.score[0] = 0;
  chain.mask[0] = Mask::upto(1);
}

}  // namespace

Resources::Resources(std::shared_ptr<const Model> of_target, std::shared_ptr<const Model> of_draft,
                     const RuntimeConfig& given)
    : config(given), models{std::move(of_target), std::move(of_draft)} {
  check<InvalidInput>(models[0] != nullptr, "engine: a target model is needed");
  check_config(config, *models[0]);
  for (Policy& policy : config.tuned) policy = normalised(policy);
  if (config.vocab == 0) config.vocab = models[0]->vocab();
  check_within("vocab", 2, models[0]->vocab(), config.vocab);
  if (!models[1]) config.draft_device = -1;
  exec = make_exec(config.backend,
                   {config.device, config.draft_device, config.costs != nullptr, part_table()});
  make_memory();
  make_streams();  // lanes on a device capture on their streams
  bind_unit(target, *models[0], config, config.max_model_len, false);
  check<InvalidInput>(!target.columns.ids, "target: expected a head of all tokens but got one of ",
                      target.columns.n);
  make_features();
  if (models[1]) {
    const int64_t limit = std::min(config.max_model_len, models[1]->longest());
    bind_unit(draft, *models[1], config, limit, true);
    check<InvalidInput>(draft.columns.n > 0, "draft: expected a head with a token below ",
                        config.vocab, " but got none");
    for (int seat = 0; seat < count(); ++seat) {
      at(seat).draft_limit = limit;
      at(seat).draft_vocab = models[1]->vocab();
    }
  }
  // A lane that moves its KV itself may have different bits if the pieces differ.
  if (!target.lane->ring() || (draft.lane && !draft.lane->ring())) config.reuses_prefixes = false;
  check_holes(config.holes, config.vocab);
  for (LaneMemory& memory : memories)
    if (memory.sequences.device()) make_shaping(memory);
  make_scores();
  make_logprobs();
}

void Resources::make_memory() {
  const auto seats = static_cast<size_t>(count());
  memories[1].place = 1;
  target.memory = &memories[0];
  draft.memory = &memories[is_apart()];
  make_sequences(*target.memory);
  if (is_apart()) make_sequences(*draft.memory);
  const int place = draft.memory->place;
  rolls = exec->cells<Roll>(4, Where::pinned);
  target_scratch = exec->cells<TargetScratch>(1, Where::device);
  if (models[1]) draft_scratch = exec->cells<DraftScratch>(1, Where::device, place);
  records = exec->cells<Records>(seats, Where::pinned);
  target.batch = &target_scratch.host()->batch;
  target.scratch_block = &target_scratch.block();
  if (models[1]) {
    draft.batch = &draft_scratch.host()->batch;
    draft.scratch_block = &draft_scratch.block();
  }
  int lane = 0;
  for (LaneUnit* unit : {&target, &draft}) {
    unit->roll = &rolls.host()[lane];
    unit->fed_roll = &rolls.host()[2 + lane];
    unit->fed_at = 1 + lane++;
  }
  exec->watch(watched(target_scratch.device()));
  if (models[1]) exec->watch(watched(draft_scratch.device(), place));
}

void Resources::make_sequences(LaneMemory& memory) {
  const auto seats = static_cast<size_t>(count());
  const int place = memory.place;
  memory.sequences = exec->cells<Sequence>(seats, Where::device, place);
  memory.ended = exec->cells<int64_t>(3, Where::device, place);
  memory.trunks = exec->cells<int32_t>(seats * room(), Where::device, place);
  if (!config.tuned.empty()) memory.ranks = exec->cells<uint8_t>(seats * room(), Where::pinned);
  for (int seat = 0; seat < count(); ++seat) {
    Sequence& c = memory.at(seat);
    c.trunk = memory.trunks.device() + seat * room();
    if (memory.ranks.size() > 0) c.rank = memory.ranks.device() + seat * room();
    exec->watch(watched(memory.sequences.device() + seat, seat, place));
  }
}

void Resources::make_shaping(LaneMemory& memory) {
  memory.dense_shaping = ShapingMemory(*exec, config.vocab, count(), memory.place);
  for (int seat = 0; seat < count(); ++seat)
    memory.shaping.emplace_back(*exec, memory.dense_shaping, seat, config.holes);
}

void Resources::make_streams() {
  const auto stream = [this](const LaneUnit& unit, const char* name, bool urgent) {
    return exec->stream(config.num_threads, {name, urgent, config.nvtx, unit.memory->place});
  };
  target.stream = stream(target, "target", !config.draft_first);
  if (models[1]) draft.stream = stream(draft, "draft", config.draft_first);
}

void Resources::make_features() {
  if (!config.hrad && !config.keep_features) return;
  const int64_t width = target.lane->feature_width();
  check<InvalidInput>(width > 0, "hrad: expected a target that keeps features, this one has none");
  if (config.hrad)
    check<InvalidInput>(config.hrad->hidden() == width, "hrad: made for a target of hidden size ",
                        config.hrad->hidden(), ", this one's is ", width);
  if (!config.can().has_host_memory) {
    hrad_memory = HradMemory(*exec, config.hrad.get(), width, count(), config.keep_features);
    return;
  }
  features = Buffer<float>(count() * Hrad::room(width));
  hrad_scratch = Buffer<float>(Hrad::kScratch);
}

void Resources::make_scores() {
  if (!config.rejection) return;
  const RingShape shape = has_draft() ? draft.lane->ring_shape() : RingShape{};
  scores = ScoreMemory(*exec, {count(), config.vocab, draft.columns, shape.branches,
                               shape.tail_slots, draft.memory->place});
  for (int seat = 0; seat < count(); ++seat) at(seat).scores = scores.of_target(seat);
}

void Resources::make_logprobs() {
  logprobs.resize(count());
  asked = exec->cells<Logprobs>(count(), Where::pinned);
  for (int seat = 0; seat < count(); ++seat) asked.host()[seat] = {};
  if (config.holes.empty()) return;
  hole = exec->cells<uint8_t>(config.vocab, Where::device);
  for (const int32_t id : config.holes) hole.host()[id] = 1;
  exec->upload(hole, 0, hole.size());
}

Seats Resources::seats(const LaneUnit& unit) const {
  const LaneMemory& m = *unit.memory;
  return {m.sequences.device(), count(), rolls.device() + (&unit == &draft), m.ended.device()};
}

Seats Resources::fed_seats(const LaneUnit& unit) const {
  const LaneMemory& m = *unit.memory;
  return {m.sequences.device(), count(), rolls.device() + 2 + (&unit == &draft),
          m.ended.device() + unit.fed_at};
}

void Resources::count_from(int64_t round) {
  for (const LaneMemory& memory : memories) {
    if (!memory.sequences.device()) continue;
    int64_t* ended = memory.ended.host();
    ended[0] = round;
    for (const LaneUnit* unit : {&target, &draft}) ended[unit->fed_at] = unit->feed.pieces;
    exec->upload(memory.ended, 0, memory.ended.size());
  }
}

int64_t Resources::same_tokens(int seat, const int32_t* tokens, int64_t most) const {
  return std::mismatch(tokens, tokens + most, trunk(seat)).first - tokens;
}

void Resources::start_sequence(int seat, const Request& r, int64_t target_have,
                               int64_t draft_have) {
  exec->note("start_sequence", {{}, parts_of_seats()}, SeatSet{1} << seat);
  Sequence& c = at(seat);
  const int64_t length = static_cast<int64_t>(r.prompt.size());
  std::copy(r.prompt.begin(), r.prompt.end(), trunk(seat));
  c.sampling = normalised(r.sampling);
  memories[0].shaping[seat].start(r, c);
  c.policy = r.tuned ? config.tuned[0] : normalised(r.policy);
  c.prices.known = 0;
  if (c.rank)  // the length of the last sequence
    std::fill_n(memories[0].ranks.host() + seat * room(),
                std::min<int64_t>(room(), c.head + kSlots), kUnknownRank);
  c.trunk_hash = 0;
  for (const int32_t token : r.prompt) c.trunk_hash = extended(c.trunk_hash, token);
  c.limit = std::min(length + r.max_tokens, config.max_model_len);
  asked.host()[seat] = logprobs[seat].start(*exec, r, c.limit, config.vocab);
  c.head = length - 1;
  c.followed = length;
  c.lost = c.no_mass = c.filled = 0;
  c.hindsight = {};
  start_chain(c.chain, r.prompt.back());
  c.outcome = {};
  c.cut = Cut::confident;
  c.outcome.branch = -1;
  c.branch_count = c.draft_idle = c.step = 0;
  c.sharpness = c.sampling.temperature == 0 ? 2.5f : 1.0f;
  c.draft_nodes = Mask::none();
  c.target_have = target_have;
  c.draft_have = draft_have;
  exec->upload(memories[0].trunks, seat * room(), length);
  send_sequence(seat);
  if (is_apart()) start_elsewhere(seat, r);
}

// The same in the draft's memory.
void Resources::start_elsewhere(int seat, const Request& r) {
  const LaneMemory& memory = *draft.memory;
  Sequence& c = memory.at(seat);
  int32_t* trunk = c.trunk;
  const Counts counts = c.counts;
  c = at(seat);
  c.trunk = trunk;
  c.counts = counts;
  if (scores.is_there()) c.scores = scores.of_draft(seat);
  std::copy(r.prompt.begin(), r.prompt.end(), memory.trunks.host() + seat * room());
  draft.memory->shaping[seat].start(r, c);
  exec->upload(memory.trunks, seat * room(), r.prompt.size());
  exec->upload(memory.sequences, seat, 1);
}

// The host's copy has the host's addresses except while it is sent: the tuner reads it.
void Resources::send_sequence(int seat) {
  Sequence& c = at(seat);
  const LaneMemory& own = memories[0];
  const bool ranks_it = own.ranks.size() > 0;
  c.trunk = own.trunks.device() + seat * room();
  c.rank = ranks_it ? own.ranks.device() + seat * room() : nullptr;
  exec->upload(own.sequences, seat, 1);
  c.trunk = trunk(seat);
  c.rank = ranks_it ? own.ranks.host() + seat * room() : nullptr;
}

// Sends a part of the host's copy, from one of its addresses to another.
void Resources::send_fields(int seat, const void* begin, const void* end) {
  const auto* first = reinterpret_cast<const std::byte*>(&at(seat));
  const auto from = static_cast<size_t>(static_cast<const std::byte*>(begin) - first);
  const auto bytes = static_cast<size_t>(static_cast<const std::byte*>(end) -
                                         static_cast<const std::byte*>(begin));
  exec->copy_over(memories[0].sequences.block(), seat * sizeof(Sequence) + from, bytes);
}

void Resources::sit_out(int seat) {
  Sequence& c = at(seat);
  exec->note("sit_out", {{}, parts(Part::chain_dist, Part::branches)}, SeatSet{1} << seat);
  c.draft_nodes = Mask::none();
  c.branch_count = c.draft_idle = 0;
  send_fields(seat, &c.draft_nodes, &c.draft_nodes + 1);
  send_fields(seat, &c.branch_count, &c.draft_idle + 1);
}

void Resources::take_in(int seat, const Record& record, int64_t round) {
  if (config.can().has_host_memory || config.tuned.empty()) return;
  Sequence& c = at(seat);
  const int n = static_cast<int>(record.get(0, round) >> 8 & 255);
  for (int i = 0; i <= n; ++i) c.trunk[++c.head] = static_cast<int32_t>(record.get(2 + i, round));
  const uint32_t lacking = record.get(1, round) >> kDiscardedBits;
  if (lacking < kMostLacking) c.draft_have = c.head - lacking;  // else it sits out for long
}

void Resources::leave() {
  // NOLINTBEGIN(bugprone-unused-return-value)
  static_cast<void>(draft.stream.release());
  static_cast<void>(target.stream.release());
  static_cast<void>(exec.release());
  // NOLINTEND(bugprone-unused-return-value)
}

void Resources::close() {
  for (LaneUnit* unit : {&draft, &target}) unit->stream.reset();  // joins the threads first
  for (LaneUnit* unit : {&draft, &target}) unit->lane.reset();
  for (auto& model : models) model.reset();
}

}  // namespace sbrt
