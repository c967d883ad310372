//! Scenario, plans, the run, the fleet, journal and merge.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`scenario`] | the file: every key read and checked |
//! | [`users`] | who the users are |
//! | [`plan`] | what each agent does |
//! | [`certs`] | a development CA, and roles in certificates |
//! | [`fleet`] | agents that attached |
//! | [`run`] | a run as a state machine, and the shell around it |
//! | [`control`] | runs for others |
//! | [`journal`] | what agents sent, on disk before it is acknowledged |
//! | [`convert`] | from the wire to the words of the files |

pub mod certs;
pub mod control;
pub mod convert;
pub mod fleet;
pub mod journal;
pub mod plan;
pub mod run;
pub mod scenario;
pub mod users;
