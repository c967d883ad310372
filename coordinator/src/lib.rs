//! Scenario, plans, the run, fleet, journal and merge of adsum

pub mod plan;
pub mod scenario;
pub mod users;
