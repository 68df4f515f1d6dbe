//! `ebbtide.v1.Planner`: plans, and why.

use std::sync::Arc;

use ebbtide_proto::identity::Role;
use ebbtide_proto::v1;
use ebbtide_proto::v1::planner_server::Planner;
use ebbtide_runtime::tasks;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::{Trust, status};
use crate::query::{PlanQueries, QueryError};

/// Questions that are answered at a time, for planning keeps a CPU busy; others wait.
const AT_A_TIME: usize = 2;

/// The service.
#[derive(Clone)]
pub struct PlannerService {
    plans: Arc<dyn PlanQueries>,
    trust: Trust,
    answering: Arc<Semaphore>,
}

impl PlannerService {
    /// Answers from `plans`.
    pub fn new(plans: Arc<dyn PlanQueries>, trust: Trust) -> Self {
        Self { plans, trust, answering: Arc::new(Semaphore::new(AT_A_TIME)) }
    }

    async fn ask<Q: Send + 'static, A: Send + 'static>(
        &self,
        request: Request<Q>,
        question: impl FnOnce(&dyn PlanQueries, &Q) -> Result<A, QueryError> + Send + 'static,
    ) -> Result<Response<A>, Status> {
        self.trust.allow(&request, Role::Viewer)?;
        let turn = Arc::clone(&self.answering).acquire_owned().await;
        let turn = turn.map_err(|_| Status::unavailable("the fleet daemon stops"))?;
        let (plans, request) = (Arc::clone(&self.plans), request.into_inner());
        let answer = tasks::blocking("question about plans", move || {
            // who doesn't wait for the answer doesn't make room for another question
            let _turn = turn;
            question(&*plans, &request)
        });
        match answer.await {
            Some(answer) => answer.map(Response::new).map_err(status),
            None => Err(Status::internal("the question could not be answered; the daemon's log says why")),
        }
    }
}

#[tonic::async_trait]
impl Planner for PlannerService {
    async fn get_plan(&self, request: Request<v1::GetPlanRequest>) -> Result<Response<v1::Plan>, Status> {
        self.ask(request, |plans, question| plans.plan(question)).await
    }

    async fn list_plans(
        &self,
        request: Request<v1::ListPlansRequest>,
    ) -> Result<Response<v1::ListPlansResponse>, Status> {
        self.ask(request, |plans, question| plans.plans(question)).await
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::Explanation>, Status> {
        self.ask(request, |plans, question| plans.explain(question)).await
    }

    async fn what_if(&self, request: Request<v1::WhatIfRequest>) -> Result<Response<v1::WhatIfResponse>, Status> {
        self.ask(request, |plans, question| plans.what_if(question)).await
    }

    async fn replay_plan(
        &self,
        request: Request<v1::ReplayPlanRequest>,
    ) -> Result<Response<v1::ReplayPlanResponse>, Status> {
        self.ask(request, |plans, question| plans.replay(question)).await
    }
}
