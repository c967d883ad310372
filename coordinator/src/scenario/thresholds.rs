//! The one place where expressions of thresholds are checked: their grammar
//! belongs to the report, which evaluates them.

/// What is wrong with an expression.
pub(super) struct ExprError {
    /// Byte of the expression where it goes wrong.
    pub offset: usize,
    /// Bytes that are wrong.
    pub len: usize,
    pub message: String,
    pub help: Option<String>,
}

/// Checks `metric.stat op value`.
pub(super) fn check(_expr: &str) -> Result<(), ExprError> {
    Ok(())
}

/// Checks `CLASS.ratio > VALUE for DURATION`.
pub(super) fn check_stop_on(_expr: &str) -> Result<(), ExprError> {
    Ok(())
}
