//! Scenario, plans, the run, fleet, journal and merge of adsum
