//! Scenario, plans, the run, fleet, journal and merge of adsum

#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
pub mod certs;
pub mod plan;
pub mod scenario;
pub mod users;
