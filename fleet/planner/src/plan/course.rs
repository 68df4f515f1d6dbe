//! The rounds of a plan: each sees the fleet as the ones before leave it, until there is nothing left to do.

use super::action::Plan;
use super::bound::Market;
use super::emit::Draft;
use super::facts::Facts;
use super::pack::Pack;
use super::problem::{N, Problem, W};
use super::small::{self, Outcome};
use super::{Planner, Step, hold};
use crate::state::node::PowerState;

/// Most rounds of a plan. Two or three are common, of which the last finds nothing to do.
const ROUNDS: usize = 12;

/// What was decided so far, and what will be known once it is done.
#[derive(Clone)]
struct Course<'a> {
    facts: Facts<'a>,
    draft: Draft,
}

/// Makes the plan for what is known.
pub(super) fn plan(facts: &Facts<'_>) -> Plan {
    let first = Problem::new(facts);
    let draft = Draft::new(first.nodes.len(), Pack::new(&first).total_watts());
    let mut course = Course { facts: facts.clone(), draft };
    let market = if small::is_small(&first) {
        course.surpass(&first);
        let holds = hold::against_off(&first, facts);
        Some(Market::new(&first, |n| holds[n].is_some(), true))
    } else {
        course.usual(&first, Some(&first)).market
    };
    course.draft.finish(&first, market.as_ref())
}

/// What came of the usual rounds.
struct Usual {
    /// Whether they did anything.
    acted: bool,
    /// Whether they woke nodes.
    woke: bool,
    /// Whether the last one found nothing to do.
    settled: bool,
    market: Option<Market>,
}

impl<'a> Course<'a> {
    /// The usual rounds. `first` is the problem as the plan found it, `now` as it is if that is known.
    fn usual(&mut self, first: &Problem<'a>, now: Option<&Problem<'a>>) -> Usual {
        let mut usual = Usual { acted: false, woke: false, settled: false, market: None };
        for round in 0..ROUNDS {
            let known = now.filter(|_| round == 0);
            let made = known.is_none().then(|| first.after(&self.facts));
            let Some(problem) = known.or(made.as_ref()) else { break };
            let mut planner = Planner::new(problem, &self.facts, round == 0);
            planner.run();
            if planner.turns_back(&self.facts) {
                break;
            }
            carry_out(&mut self.facts, problem, &planner.steps);
            let done = planner.steps.is_empty();
            usual.acted |= !done;
            usual.woke |= !planner.woken.is_empty();
            let own = self.draft.take(first, planner);
            usual.market.get_or_insert(own);
            if done {
                usual.settled = true;
                break;
            }
        }
        usual
    }

    /// The usual rounds, or something better where that is found, until neither finds anything to do.
    fn surpass(&mut self, first: &Problem<'a>) {
        for _ in 0..ROUNDS {
            let problem = first.after(&self.facts);
            let mut usual = self.clone();
            let acted = usual.usual(first, Some(&problem)).acted;
            match self.better(first, &problem, &usual.facts) {
                Some(better) => *self = better,
                None => {
                    *self = usual;
                    if !acted {
                        return;
                    }
                }
            }
        }
    }

    /// What is searched for, with the usual rounds after it, if that is better than these alone.
    fn better(&self, first: &Problem<'a>, problem: &Problem<'a>, usual: &Facts<'a>) -> Option<Self> {
        let mut planner = Planner::new(problem, &self.facts, true);
        let goal = Outcome::of(problem, &planner, usual);
        planner.surpass(&self.facts, usual);
        if planner.steps.is_empty() {
            return None;
        }
        let mut course = self.clone();
        carry_out(&mut course.facts, problem, &planner.steps);
        course.draft.take(first, planner);
        let usual = course.usual(first, None);
        // what is woken after all may be what this plan powered off: the next would be free to wake it, this one isn't
        if !usual.settled || usual.woke {
            return None;
        }
        let before = Planner::new(problem, &self.facts, true);
        Outcome::of(problem, &before, &course.facts).beats(goal).then_some(course)
    }
}

/// Notes what steps lead to.
fn carry_out(facts: &mut Facts<'_>, problem: &Problem<'_>, steps: &[Step]) {
    let (node, work) = (|n: N| problem.nodes[n].fact, |w: W| problem.work[w].fact);
    for step in steps {
        match step {
            Step::Wake(n) => facts.switch(node(*n), PowerState::On),
            Step::Place(w, to) => facts.bring(work(*w), node(*to)),
            Step::Move(m) => facts.bring(work(m.w), node(m.to)),
            Step::Empty(drained) => {
                for m in &drained.moves {
                    facts.bring(work(m.w), node(m.to));
                }
                facts.switch(node(drained.n), PowerState::Off);
            }
        }
    }
}
