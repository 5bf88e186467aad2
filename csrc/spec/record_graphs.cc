// The graphs of both lanes: which ops a round, a piece of prefill and a measurement are made of.
#include "spec/lanes.h"
#include "spec/runtime.h"

namespace sbrt {

void Runtime::record_graphs() {
  Control* c = control_;
  const auto args_of = [c](LaneUnit& u) {
    return LaneArgs{c, u.lane->ring(), u.lane->ring_shape(), u.max_rows};
  };
  const LaneArgs target = args_of(target_);
  const SelectArgs chosen{c,
                          records_.data(),
                          &selected_round_,
                          target_.lane.get(),
                          config_.hrad.get(),
                          features_.size() ? features_.data() : nullptr,
                          hrad_scratch_.data(),
                          accept_.place()};
  const ChooseArgs rows{target_.lane->logits(),
                        target_.lane->vocab(),
                        config_.vocab,
                        &c->target_rows,
                        c,
                        target_.scratch.data(),
                        c->choice,
                        nullptr};
  settle_target_.add(settle_target, target, true);
  target_.lane->add_moves(settle_target_, c, Moves::path);
  verify_.add(target_rows, target, true);
  verify_.cost_by(&c->target_rows.n, &target_.cost);
  target_.lane->add_forward(verify_, &c->target_rows, true);
  target_.lane->add_choose(verify_, rows);
  select_.add(select, chosen, true);
  prefill_target_.add(prefill_target_rows, target, true);
  target_.lane->add_forward(prefill_target_, &c->target_rows, false);
  target_.rows = &c->target_rows;
  target_.lane->add_forward(target_.timed_forward, &c->target_rows, true);
  target_.lane->add_choose(target_.timed_forward, rows);
  if (!draft_.lane) return;

  const LaneArgs draft = args_of(draft_);
  const ChooseArgs laws{draft_.lane->logits(),
                        draft_.lane->vocab(),
                        config_.vocab,
                        &c->draft_rows,
                        c,
                        draft_.scratch.data(),
                        nullptr,
                        c->row_law};
  settle_draft_.add(settle_draft, draft, true);
  draft_.lane->add_moves(settle_draft_, c, Moves::path_and_tail);
  plan_certain_.add(plan_certain, draft, true);
  hang_burst_.add(hang_burst, chosen, true);
  hang_burst_.add(bring_burst, draft, true);
  draft_.lane->add_moves(hang_burst_, c, Moves::burst);
  catch_up_.cost_by(&c->draft_rows.n, &draft_.cost);
  draft_.lane->add_forward(catch_up_, &c->draft_rows, true);
  draft_.lane->add_choose(catch_up_, laws);
  catch_up_.add(keep_laws, draft, true);
  plan_.add(plan, draft, true);
  step_.cost_by(&c->draft_rows.n, &draft_.cost);
  draft_.lane->add_forward(step_, &c->draft_rows, true);
  draft_.lane->add_choose(step_, laws);
  step_.add(extend, draft, true);
  prefill_draft_.add(prefill_draft_rows, draft, true);
  draft_.lane->add_forward(prefill_draft_, &c->draft_rows, false);
  draft_.rows = &c->draft_rows;
  draft_.lane->add_forward(draft_.timed_forward, &c->draft_rows, true);
  draft_.lane->add_choose(draft_.timed_forward, laws);
  for (Graph* graph : {&prefill_laws_, &look_}) {
    graph->add(prefill_draft_rows, draft, true);
    if (graph == &look_) graph->cost_by(&c->draft_rows.n, &draft_.cost);
    draft_.lane->add_forward(*graph, &c->draft_rows, true);
    draft_.lane->add_choose(*graph, laws);
    graph->add(keep_laws, draft, true);
  }
}

}  // namespace sbrt
