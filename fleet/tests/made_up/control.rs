//! Things that are done to a made-up fleet.

use std::sync::Mutex;

use ebbtide_fleet::query::{ControlQueries, Order, Orders, QueryError, Refusal, Visitor};
use ebbtide_proto::v1::*;

use super::THEN;

/// Two operations: one that goes on and one that failed.
pub struct MadeUpDeeds;

fn operations() -> Vec<Operation> {
    let step = |number, at_ms, what: &str, answer: &str, undo: &str| OperationStep {
        number,
        at_ms,
        what: what.to_owned(),
        answered_ms: if answer.is_empty() { 0 } else { at_ms + 200 },
        answer: answer.to_owned(),
        undo: undo.to_owned(),
    };
    vec![
        Operation {
            id: 7,
            what: "power edge2 off".to_owned(),
            why: "saves 96 W for 1 h".to_owned(),
            by: "planner".to_owned(),
            state: OperationState::Live.into(),
            began_ms: THEN - 42_000,
            deadline_ms: THEN + 300_000,
            node: "edge2".to_owned(),
            words: "waits until edge2 is empty".to_owned(),
            steps: vec![
                step(1, THEN - 41_000, "close edge2", "done", "open edge2"),
                step(2, THEN - 30_000, "move web-4 off edge2", "", "not undone: it runs elsewhere by then"),
            ],
            part_of: 6,
            ..Operation::default()
        },
        Operation {
            id: 5,
            what: "power ru9 on".to_owned(),
            why: "local asked for it".to_owned(),
            by: "<b>local</b>".to_owned(),
            state: OperationState::Quarantined.into(),
            began_ms: THEN - 7_200_000,
            ended_ms: THEN - 6_900_000,
            node: "ru9".to_owned(),
            words: "its outlet gives power and nothing boots".to_owned(),
            ..Operation::default()
        },
    ]
}

impl ControlQueries for MadeUpDeeds {
    fn control(&self) -> ControlState {
        let pool = |name: &str, mode: PoolMode, nodes, open| PoolControl {
            name: name.to_owned(),
            mode: mode.into(),
            nodes,
            open,
            until_ms: if open.is_some() { THEN + 3_600_000 } else { 0 },
        };
        ControlState {
            paused: Some("a switch is replaced".to_owned()),
            pools: vec![pool("", PoolMode::Observe, 3, None), pool("edge", PoolMode::Auto, 2, Some(false))],
            operations: 1,
            quarantined: vec![Quarantine { node: "ru9".to_owned(), why: "nothing boots".to_owned() }],
            locked: vec!["edge1".to_owned()],
            leads: true,
            generation: 3,
            cluster: Some("5 nodes and 18 pods, followed".to_owned()),
        }
    }

    fn operations(&self, most: usize) -> Vec<Operation> {
        operations().into_iter().take(most).collect()
    }

    fn operation(&self, id: u64) -> Result<Operation, QueryError> {
        let found = operations().into_iter().find(|op| op.id == id);
        found.ok_or_else(|| QueryError::NotFound { what: "operation", name: id.to_string() })
    }
}

/// Notes who ordered what; takes nothing about a node that is nowhere.
#[derive(Default)]
pub struct Desk(pub Mutex<Vec<(String, Order)>>);

#[tonic::async_trait]
impl Orders for Desk {
    async fn give(&self, by: &Visitor, order: Order) -> Result<Option<u64>, Refusal> {
        match &order {
            Order::PowerOff { node } if node == "nowhere" => Err(Refusal::NotFound("no node is called so".to_owned())),
            Order::Approve { .. } => Err(Refusal::NotNow("the plan doesn't stand any more".to_owned())),
            _ => {
                self.0.lock().unwrap().push((by.name.clone(), order.clone()));
                Ok((!matches!(order, Order::SetMode { .. })).then_some(7))
            }
        }
    }
}
