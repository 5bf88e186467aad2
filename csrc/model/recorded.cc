#include "model/recorded.h"

#include "core/tensor.h"

namespace sbrt {
namespace {

struct ForwardArgs {
  const Pieces* pieces;
  const int32_t* expected;
  const RowTable* rows;
};

struct RecordedChoice {
  const Pieces *plain, *filtered;
  const int32_t* expected;
  ChooseArgs args;
};

const Piece& chosen(const Pieces& pieces, const int32_t* expected) {
  return expected ? pieces.fit(*expected) : pieces.sizes.back();
}

void replay(const Piece& piece, const RowTable& rows) {
  check(rows.n <= piece.rows, "lane: ", rows.n, " rows, but a graph of ", piece.rows,
        " was launched");
  piece.replay(piece.recording);
}

void replay_forward(const ForwardArgs& a, Worker) {
  replay(chosen(*a.pieces, a.expected), *a.rows);
}

bool filters(const Sampling& s) {
  return s.temperature > 0 && (s.min_p > 0 || s.top_k > 0 || s.top_p < 1);
}

// No piece shapes rows, or keeps them for a rule of chance: those are the CPU's own ops.
void replay_choice(const RecordedChoice& a, Worker worker) {
  const Control& c = *a.args.control;
  if (c.shaping.active || is_rejection(c)) {
    (a.args.law ? choose_laws : choose_rows)(a.args, worker);
  } else if (worker.rank == 0) {
    replay(chosen(filters(c.sampling) ? *a.filtered : *a.plain, a.expected), *a.args.rows);
  }
}

void replay_moves(const Piece& piece, Worker) { piece.replay(piece.recording); }

void check_pieces(const Pieces& pieces) {
  check(!pieces.sizes.empty(), "lane: expected recorded pieces, got none");
  for (const Piece& piece : pieces.sizes)
    check_within("lane: rows of a piece", 1, 4096, piece.rows);
}

}  // namespace

const Piece& Pieces::fit(int32_t rows) const {
  for (const Piece& piece : sizes)
    if (piece.rows >= rows) return piece;
  throw Error(sentence("lane: expected at most ", sizes.empty() ? 0 : sizes.back().rows,
                       " rows, got ", rows));
}

RecordedModel::RecordedModel(int vocab, int64_t max_positions, int64_t longest, Bind bind)
    : vocab_(vocab), max_positions_(max_positions), longest_(longest), bind_(std::move(bind)) {
  check_within("recorded model: vocab", 1, 1 << 24, vocab);
  check_within("recorded model: max_positions", int64_t{1}, kEndless, max_positions);
  check_within("recorded model: longest", int64_t{1}, kEndless, longest);
}

std::unique_ptr<Lane> RecordedModel::bind(const LaneShape& shape) const {
  check_within("lane: max_len", int64_t{1}, longest_, shape.max_len);
  check_within("lane: max_rows", 1, kMaxStepRows, shape.max_rows);
  return std::make_unique<RecordedLane>(bind_(shape), shape);
}

RecordedLane::RecordedLane(std::unique_ptr<Recorder> recorder, const LaneShape& shape)
    : recorder_(std::move(recorder)), memory_(recorder_->memory()), max_rows_(shape.max_rows) {
  check_shape(memory_.ring);
  check(memory_.logits != nullptr, "lane: expected logits, got none");
}

const Pieces* RecordedLane::keep(Pieces pieces) {
  check_pieces(pieces);
  pieces_.push_back(std::move(pieces));
  return &pieces_.back();
}

void RecordedLane::add_forward(Graph& graph, const RowTable* rows, bool with_logits) {
  const Pieces* pieces = keep(recorder_->forward(rows, with_logits));
  graph.add(replay_forward, ForwardArgs{pieces, with_logits ? expected_ : nullptr, rows}, true);
}

void RecordedLane::add_choose(Graph& graph, const ChooseArgs& args) {
  const Pieces* plain = keep(recorder_->choose(args, false));
  const Pieces* filtered = keep(recorder_->choose(args, true));
  graph.add(replay_choice, RecordedChoice{plain, filtered, expected_, args});
}

void RecordedLane::add_moves(Graph& graph, const Control* control, Moves which) {
  graph.add(replay_moves, recorder_->moves(control, which), true);
}

void RecordedLane::read_features(int row, int32_t token, float* out) const {
  check_within("lane: row of features", 0, max_rows_ - 1, row);
  check_within("lane: token of features", 0, memory_.vocab - 1, token);
  const int64_t kept = kFeatureLayers * memory_.hidden;
  const TensorView features{memory_.features, memory_.dtype, {max_rows_, kept}, 2};
  const TensorView embed{memory_.embed, memory_.dtype, {memory_.vocab, memory_.hidden}, 2};
  for (int64_t i = 0; i < kept; ++i) out[i] = features.at(row * kept + i);
  for (int64_t i = 0; i < memory_.hidden; ++i) out[kept + i] = embed.at(token * memory_.hidden + i);
}

}  // namespace sbrt
