#include "model/recorded.h"

namespace sbrt {
namespace {

struct ForwardArgs {
  const PieceSet* pieces;
  const Batch* rows;
};

struct RecordedMoves {
  const PieceSet* pieces;
};

struct RecordedChoice {
  const PieceSet* pieces;
  ChooseArgs args;
};

void replay(const Piece& piece, const Batch& rows) {
  check(rows.n <= piece.rows, "lane: ", rows.n, " rows, but a graph of ", piece.rows,
        " was launched");
  piece.replay(piece.recording);
}

void replay_forward(const ForwardArgs& a, Worker) { replay(a.pieces->picked(), *a.rows); }

// Returns true if a row needs sampling that no recorded piece can do. Pieces for the CPU apply no
// shaping and keep no scores.
bool is_beyond_pieces(const RecordedChoice& a) {
  for (int32_t i = 0; i < a.args.rows->n; ++i) {
    const Sequence& c = a.args.of(i);
    if (c.shaping.active && !a.pieces->has_shapes()) return true;
    if (is_rejection(c) && !a.args.kept.at) return true;
  }
  return false;
}

// Replays the piece that was picked. If no piece can sample for these rows, runs the op of the CPU
// instead.
void replay_choice(const RecordedChoice& a, Worker worker) {
  if (is_beyond_pieces(a)) {
    (a.args.dist ? choose_dists : choose_rows)(a.args, worker);
  } else if (worker.rank == 0) {
    replay(a.pieces->picked(), *a.args.rows);
  }
}

void replay_moves(const RecordedMoves& a, Worker) {
  const Piece& piece = a.pieces->picked();
  piece.replay(piece.recording);
}

// Returns a list that holds only the smallest piece with room for `rows` rows. Throws Error if no
// piece has room.
Pieces only_for(const Pieces& pieces, int32_t rows) {
  for (const Piece& piece : pieces)
    if (piece.rows >= rows) return {piece};
  throw Error(sentence("lane: expected a piece of ", rows, " rows, got none"));
}

void check_pieces(const Pieces& pieces, bool on_device) {
  check(!pieces.empty(), "lane: expected recorded pieces, got none");
  for (const Piece& piece : pieces) {
    check_within("lane: rows of a piece", 1, 4096, piece.rows);
    check(on_device == (piece.graph != nullptr), "lane: expected pieces recorded for ",
          on_device ? "a device" : "the CPU", ", got others");
    check(piece.play == pieces[0].play, "lane: expected all pieces captured, or none, got both");
  }
}

}  // namespace

void PieceSet::add(const Pieces& pieces) {
  check(kinds_ == 0 || static_cast<int>(pieces.size()) == sizes_,
        "lane: expected every kind of a choice in as many sizes");
  sizes_ = static_cast<int>(pieces.size());
  ++kinds_;
  captured_.play = pieces[0].play;
  for (const Piece& piece : pieces) {
    pieces_.push_back(piece);
    captured_.graphs.push_back(piece.graph);
  }
}

int PieceSet::pick(const void* set) {
  const PieceSet& s = *static_cast<const PieceSet*>(set);
  return s.kind() * s.sizes_ + s.size();
}

int PieceSet::kind() const {
  if (kinds_ == 1 || !expected_.kind) return 0;
  return expected_.kind->filters + 2 * (has_shapes() && expected_.kind->shapes);
}

int PieceSet::size() const {
  if (!expected_.rows) return sizes_ - 1;
  for (int i = 0; i < sizes_; ++i)
    if (pieces_[i].rows >= *expected_.rows) return i;
  throw Error(sentence("lane: expected at most ", pieces_[sizes_ - 1].rows, " rows, got ",
                       *expected_.rows));
}

RecordedModel::RecordedModel(int vocab, int64_t max_positions, int64_t longest,
                             const std::vector<int32_t>& head_ids, Bind bind)
    : vocab_(vocab), max_positions_(max_positions), longest_(longest), bind_(std::move(bind)) {
  check_within("recorded model: vocab", 1, 1 << 24, vocab);
  check_within("recorded model: max_positions", int64_t{1}, kEndless, max_positions);
  check_within("recorded model: longest", int64_t{1}, kEndless, longest);
  columns_ = std::make_shared<ColumnMap>(head_ids, vocab);
}

std::unique_ptr<Lane> RecordedModel::bind(const LaneShape& shape) const {
  check_within("lane: max_len", int64_t{1}, longest_, shape.max_len);
  check_within("lane: max_rows", 1, kMaxStepRows, shape.max_rows);
  return std::make_unique<RecordedLane>(bind_(shape), columns_, shape);
}

RecordedLane::RecordedLane(std::unique_ptr<Recorder> recorder,
                           std::shared_ptr<const ColumnMap> columns, const LaneShape& shape)
    : recorder_(std::move(recorder)),
      memory_(recorder_->memory()),
      columns_(std::move(columns)),
      max_rows_(shape.max_rows) {
  check_shape(memory_.ring);
  check(memory_.logits != nullptr, "lane: expected logits, got none");
  check_within("lane: rows of prefill", kMaxRows, kMaxStepRows, memory_.prefill_rows);
  memory_.on_device = shape.on_device;
}

PieceSet& RecordedLane::keep(const Pieces& pieces, const Expected& expected) {
  check_pieces(pieces, memory_.on_device);
  pieces_.emplace_back(expected).add(pieces);
  return pieces_.back();
}

void RecordedLane::add_forward(Graph& graph, const Batch* rows, bool with_logits) {
  Pieces pieces = recorder_->forward(rows, with_logits);
  // A forward over a prompt has a known number of rows. So one piece is selected now, not at
  // launch.
  if (!with_logits && expected_.rows) pieces = only_for(pieces, *expected_.rows);
  const PieceSet& set = keep(pieces, expected_);
  graph.add(replay_forward, ForwardArgs{&set, rows}, true).on_device(set.captured());
}

void RecordedLane::add_choose(Graph& graph, const ChooseArgs& args) {
  PieceSet& set = keep(recorder_->choose(args, {}), expected_);
  const auto add = [&](ChoiceKind kind) {
    const Pieces pieces = recorder_->choose(args, kind);
    check_pieces(pieces, memory_.on_device);
    set.add(pieces);
  };
  add({.filters = true});
  if (args.dense.mask) {
    add({.shapes = true});
    add({.filters = true, .shapes = true});
  }
  graph.add(replay_choice, RecordedChoice{&set, args}).on_device(set.captured());
}

void RecordedLane::add_moves(Graph& graph, const Seats& seats, Moves which) {
  const PieceSet& set = keep(recorder_->moves(seats, which), {});
  graph.add(replay_moves, RecordedMoves{&set}, true).on_device(set.captured());
}

void RecordedLane::read_features(int row, int32_t token, float* out) const {
  check(!memory_.on_device, "lane: expected features in the host's memory, got a device's");
  check_within("lane: row of features", 0, max_rows_ - 1, row);
  check_within("lane: token of features", 0, memory_.vocab - 1, token);
  const FeatureMemory kept = feature_memory();
  for (int64_t i = 0; i < kFeatureBlocks * kept.hidden; ++i) out[i] = kept.at(row, token, i);
}

FeatureMemory RecordedLane::feature_memory() const {
  return {memory_.features, memory_.embed, memory_.hidden, memory_.dtype};
}

}  // namespace sbrt
