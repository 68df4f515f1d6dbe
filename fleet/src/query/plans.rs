//! Answers about plans, from those who make them.

use ebbtide_proto::v1;

use super::{PlanQueries, QueryError};
use crate::decide::{NoAnswer, Plans};

impl From<NoAnswer> for QueryError {
    fn from(none: NoAnswer) -> Self {
        match none {
            NoAnswer::NotYet(_) => Self::NotYet(none.to_string()),
            NoAnswer::NotFound(text) => Self::Missing(text),
            NoAnswer::Invalid(text) => Self::Invalid(text),
            NoAnswer::Archive(error) => Self::Store(error.to_string()),
        }
    }
}

impl PlanQueries for Plans {
    fn plan(&self, request: &v1::GetPlanRequest) -> Result<v1::Plan, QueryError> {
        Ok(self.get(request)?)
    }

    fn plans(&self, request: &v1::ListPlansRequest) -> Result<v1::ListPlansResponse, QueryError> {
        Ok(self.list(request)?)
    }

    fn explain(&self, request: &v1::ExplainRequest) -> Result<v1::Explanation, QueryError> {
        Ok(Self::explain(self, request)?)
    }

    fn what_if(&self, request: &v1::WhatIfRequest) -> Result<v1::WhatIfResponse, QueryError> {
        Ok(Self::what_if(self, request)?)
    }

    fn replay(&self, request: &v1::ReplayPlanRequest) -> Result<v1::ReplayPlanResponse, QueryError> {
        Ok(Self::replay(self, request.id)?)
    }
}
