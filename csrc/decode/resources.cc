#include "decode/resources.h"

#include <algorithm>
#include <utility>

#include "core/check.h"
#include "ops/philox.h"
#include "state/parts.h"

namespace sbrt {
namespace {

// Adds the branches and the slots of their tails to the shape of the draft's lane.
void add_branches(LaneShape& shape, const RuntimeConfig& c) {
  // The last drafted nodes take no slot: the draft does not process them.
  const int uneven = c.max_width > 1 ? 2 : 1;  // likely branches grow more than others
  const int slots = 1 + uneven * c.max_width * (c.max_gamma - 1);
  shape.branches = c.max_branches;
  shape.tail_slots = std::clamp(slots, 1, kMaxTail);
  shape.max_rows = std::clamp(c.max_branches * c.max_width, kMaxRows, kMaxStepRows);
  if (c.max_num_seqs > 1) shape.max_rows = std::min(kMaxRows * c.max_num_seqs, kMaxStepRows);
}

// Sets `chain` to a chain that has only a root.
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
  if (!models[1]) config.draft_device = kNoSecond;
  const bool has_cores = !config.target_cores.empty() || !config.draft_cores.empty();
  check<InvalidInput>(!has_cores || (models[1] != nullptr) == !config.draft_cores.empty(),
                      "draft_cores: expected some if there is a draft, got ",
                      config.draft_cores.size());
  exec = make_exec(config.backend,
                   {config.device, config.draft_device, config.costs != nullptr, part_table()});
  draft.memory = &memories[is_apart()];
  target.memory = &memories[0];
  // The streams come first: a pinned team must be the first to touch its memory, and a lane on a
  // device captures its ops.
  make_streams();
  make_memory();
  bind(target, *models[0], config.max_model_len);
  check<InvalidInput>(!target.columns.ids, "target: expected a head of all tokens but got one of ",
                      target.columns.n);
  make_features();
  if (models[1]) bind_draft();
  // A recorded lane may compute a prompt's KV with different rounding if the pieces differ. Such a
  // lane has no KV address, and no prompt reuses its KV.
  for (LaneUnit* unit : {&target, &draft}) {
    unit->feed.copies.resize(count());
    if (unit->lane && !unit->lane->ring() && !unit->lane->kv().at) config.reuses_prefixes = false;
  }
  check_holes(config.holes, config.vocab);
  for (LaneMemory& memory : used()) make_shaping(memory);
  make_scores();
  make_logprobs();
}

void Resources::bind(LaneUnit& unit, const Model& model, int64_t max_len) {
  const bool drafts = &unit == &draft;
  LaneShape shape;
  shape.max_len = max_len;
  shape.max_rows = kMaxRows;
  shape.seats = count();
  if (drafts) add_branches(shape, config);
  shape.threads = unit.threads;
  shape.debug = config.debug;
  shape.features = !drafts && (config.hrad || config.keep_features);
  shape.on_device = !can(unit).has_host_memory;
  shape.scores = shape.on_device && config.rejection;
  shape.stream = unit.stream->handle();
  unit.max_rows = shape.max_rows;
  unit.lane = model.bind(shape);
  unit.columns = unit.lane->columns().below(config.vocab);
  for (int i = 0; i < unit.threads && !shape.on_device; ++i)
    unit.scratch.emplace_back(std::max(model.vocab(), config.vocab));
}

void Resources::bind_draft() {
  const Model& model = *models[1];
  const int64_t limit = std::min(config.max_model_len, model.longest());
  bind(draft, model, limit);
  check<InvalidInput>(draft.columns.n > 0, "draft: expected a head with a token below ",
                      config.vocab, " but got none");
  for (const LaneMemory& memory : used())
    for (int seat = 0; seat < count(); ++seat) {
      memory.at(seat).draft_limit = limit;
      memory.at(seat).draft_vocab = model.vocab();
    }
}

void Resources::make_memory() {
  const auto seats = static_cast<size_t>(count());
  for (LaneMemory& memory : used()) make_sequences(memory);
  if (!config.tuned.empty()) ranks = exec->cells<uint8_t>(seats * room(), Where::pinned);
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
  for (int seat = 0; seat < count(); ++seat) {
    Sequence& c = memory.at(seat);
    c.trunk = memory.trunks.device() + seat * room();
    exec->watch(watched(memory.sequences.device() + seat, seat, place));
  }
}

void Resources::make_shaping(LaneMemory& memory) {
  memory.dense_shaping = ShapingMemory(*exec, config.vocab, count(), memory.place);
  for (int seat = 0; seat < count(); ++seat)
    memory.shaping.emplace_back(*exec, memory.dense_shaping, seat, config.holes);
}

void Resources::make_streams() {
  memories[1].place = 1;
  const auto make = [this](LaneUnit& unit, const char* name, bool urgent,
                           const std::vector<int32_t>& cores) {
    unit.threads = cores.empty() ? config.num_threads : static_cast<int>(cores.size());
    unit.stream =
        exec->stream(unit.threads, {name, urgent, config.nvtx, unit.memory->place, cores});
  };
  make(target, "target", !config.draft_first, config.target_cores);
  if (models[1]) make(draft, "draft", config.draft_first, config.draft_cores);
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
  for (int seat = 0; seat < count(); ++seat) {
    at(seat).scores = scores.of_target(seat);
    if (is_apart()) draft.memory->at(seat).scores = scores.of_draft(seat);
  }
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
  return {m.sequences.device(), count(), rolls_of(unit) + (&unit == &draft), m.ended.device()};
}

Seats Resources::fed_seats(const LaneUnit& unit) const {
  const LaneMemory& m = *unit.memory;
  return {m.sequences.device(), count(), rolls_of(unit) + 2 + (&unit == &draft),
          m.ended.device() + unit.fed_at};
}

void Resources::count_from(int64_t round) {
  for (const LaneMemory& memory : used()) {
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
  if (ranks.size() > 0)  // at this point the head still belongs to the last sequence
    std::fill_n(ranks.host() + seat * room(), std::min<int64_t>(room(), at(seat).head + kSlots),
                kUnknownRank);
  for (LaneMemory& memory : used()) {
    memory.at(seat).target_have = target_have;
    memory.at(seat).draft_have = draft_have;
    start_in(memory, seat, r);
  }
  asked.host()[seat] = logprobs[seat].start(*exec, r, at(seat).limit, config.vocab);
}

void Resources::start_in(LaneMemory& memory, int seat, const Request& r) {
  Sequence& c = memory.at(seat);
  const int64_t length = static_cast<int64_t>(r.prompt.size());
  std::copy(r.prompt.begin(), r.prompt.end(), memory.trunks.host() + seat * room());
  c.sampling = normalised(r.sampling);
  memory.shaping[seat].start(r, c);
  c.policy = r.tuned ? config.tuned[0] : normalised(r.policy);
  c.prices.known = 0;
  c.trunk_hash = 0;
  for (const int32_t token : r.prompt) c.trunk_hash = extended(c.trunk_hash, token);
  c.limit = std::min(length + r.max_tokens, config.max_model_len);
  c.head = length - 1;
  c.followed = c.told = length;
  c.lost = c.no_mass = c.filled = 0;
  c.hindsight = {};
  start_chain(c.chain, r.prompt.back());
  c.outcome = {};
  c.cut = Cut::confident;
  c.outcome.branch = -1;
  c.branch_count = c.draft_idle = c.step = 0;
  c.sharpness = c.sampling.temperature == 0 ? 2.5f : 1.0f;
  c.draft_nodes = Mask::none();
  exec->upload(memory.trunks, seat * room(), length);
  send_sequence(memory, seat);
}

// Sends the host's copy of a sequence to the device. During the copy the pointers in it are device
// addresses. At other times they are host addresses, because the tuner reads the copy.
void Resources::send_sequence(LaneMemory& own, int seat) {
  Sequence& c = own.at(seat);
  const bool ranks_it = ranks.size() > 0;
  c.trunk = own.trunks.device() + seat * room();
  c.rank = ranks_it ? pinned_at(ranks, own.place) + seat * room() : nullptr;
  exec->upload(own.sequences, seat, 1);
  c.trunk = own.trunks.host() + seat * room();
  c.rank = ranks_it ? ranks.host() + seat * room() : nullptr;
}

// Sends a part of the host's copy of a sequence: the bytes from `begin` to `end`.
void Resources::send_fields(const LaneMemory& memory, int seat, const void* begin,
                            const void* end) {
  const auto* first = reinterpret_cast<const std::byte*>(&memory.at(seat));
  const auto from = static_cast<size_t>(static_cast<const std::byte*>(begin) - first);
  const auto bytes = static_cast<size_t>(static_cast<const std::byte*>(end) -
                                         static_cast<const std::byte*>(begin));
  exec->copy_over(memory.sequences.block(), seat * sizeof(Sequence) + from, bytes);
}

void Resources::send_have(int seat) {
  exec->note("send_have", {{}, parts(Part::target_have, Part::draft_have)}, SeatSet{1} << seat);
  for (const LaneMemory& memory : used()) {
    Sequence& c = memory.at(seat);
    c.target_have = at(seat).target_have;
    c.draft_have = at(seat).draft_have;
    send_fields(memory, seat, &c.target_have, &c.target_have + 1);
    send_fields(memory, seat, &c.draft_have, &c.draft_have + 1);
  }
}

void Resources::tell_trunk(int seat) {
  if (!is_apart()) return;
  LaneMemory &from = memories[0], &to = memories[1];
  Sequence& c = to.at(seat);
  const int64_t begin = c.told, end = at(seat).head + 1;
  if (begin >= end) return;
  exec->note_mail({"tell_trunk", 0, 1, parts(Part::trunk)}, SeatSet{1} << seat);
  const int64_t first = seat * room() + begin;
  std::copy_n(from.trunks.host() + first, end - begin, to.trunks.host() + first);
  exec->upload(to.trunks, first, end - begin);
  c.told = end;
  send_fields(to, seat, &c.told, &c.told + 1);
}

void Resources::tell_have(int seat) {
  if (!is_apart()) return;
  exec->note_mail({"tell_have", 1, 0, parts(Part::draft_have)}, SeatSet{1} << seat);
  Sequence& c = at(seat);
  // The host itself counts the positions of a draft on a device (took_draft_to, take_in).
  if (can(draft).has_host_memory) c.draft_have = memories[1].at(seat).draft_have;
  send_fields(memories[0], seat, &c.draft_have, &c.draft_have + 1);
}

// Sends the policy and the prices of the host's copy to every memory.
void Resources::send_policy(int seat) {
  for (LaneMemory& memory : used()) {
    Sequence& c = memory.at(seat);
    c.policy = at(seat).policy;
    c.prices = at(seat).prices;
    send_fields(memory, seat, &c.policy, &c.prices + 1);
  }
}

void Resources::sit_out(int seat) {
  exec->note("sit_out", {{}, parts(Part::chain_dist, Part::branches)}, SeatSet{1} << seat);
  for (LaneMemory& memory : used()) {
    Sequence& c = memory.at(seat);
    c.draft_nodes = Mask::none();
    c.branch_count = c.draft_idle = 0;
    send_fields(memory, seat, &c.draft_nodes, &c.draft_nodes + 1);
    send_fields(memory, seat, &c.branch_count, &c.draft_idle + 1);
  }
}

void Resources::take_in(int seat, const Record& record, int64_t round) {
  if (config.can().has_host_memory || config.tuned.empty()) return;
  Sequence& c = at(seat);
  const int n = static_cast<int>(record.get(0, round) >> 8 & 255);
  for (int i = 0; i <= n; ++i) c.trunk[++c.head] = static_cast<int32_t>(record.get(2 + i, round));
  const uint32_t lacking = record.get(1, round) >> kDiscardedBits;
  // If `lacking` is kMostLacking, the exact number is unknown.
  if (lacking < kMostLacking) c.draft_have = c.head - lacking;
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
