//! Expressions: those of thresholds, whose grammar belongs to the report that
//! evaluates them, and that of `safety.stop_on`.

use std::fmt;

use serde::Serialize;

use super::quantity::{self, SECOND_NS, duration_text, ratio_text};

/// What is wrong with an expression.
#[derive(Debug)]
pub(super) struct ExprError {
    /// Byte of the expression where it goes wrong.
    pub offset: usize,
    /// Bytes that are wrong.
    pub len: usize,
    pub message: String,
    pub help: Option<String>,
}

/// Checks `metric.stat op value`.
pub(super) fn check(expr: &str) -> Result<(), ExprError> {
    match adsum_report::threshold::parse(expr) {
        Ok(_) => Ok(()),
        Err(error) => Err(ExprError {
            offset: error.offset,
            len: error.len,
            message: error.message,
            help: (!error.help.is_empty()).then_some(error.help),
        }),
    }
}

/// When a run is stopped to protect the pool: `5xx.ratio > 50% for 3s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopOn {
    /// First digit of the responses: 5 or 6 (RFC 3261 §7.2).
    pub class: u8,
    /// Their share of all final responses in a second, in parts per billion, above which the pool is in need.
    pub above_ppb: u64,
    /// How many seconds in a row.
    pub for_s: u32,
}

impl StopOn {
    /// What protects a pool unless the scenario says otherwise.
    pub const DEFAULT: StopOn = StopOn { class: 5, above_ppb: quantity::WHOLE_PPB / 2, for_s: 3 };

    pub(super) fn parse(expr: &str) -> Result<Self, ExprError> {
        let accepted = "an expression such as \"5xx.ratio > 50% for 3s\"";
        let wrong = |part: &str, message: String| {
            // `part` is cut out of `expr`, so its distance from the beginning is its place.
            let offset = (part.as_ptr() as usize).saturating_sub(expr.as_ptr() as usize).min(expr.len());
            ExprError { offset, len: part.len(), message, help: Some(format!("write {accepted}")) }
        };
        let (left, right) =
            expr.split_once('>').ok_or_else(|| wrong(expr, format!("`{expr}` has no `>`")))?;
        let left = left.trim();
        let class = match left {
            "5xx.ratio" => 5,
            "6xx.ratio" => 6,
            _ => return Err(wrong(left, format!("`{left}` is neither 5xx.ratio nor 6xx.ratio"))),
        };
        let (value, during) = right
            .split_once(" for ")
            .ok_or_else(|| wrong(right.trim(), "no ` for ` and a duration follow".into()))?;
        let (value, during) = (value.trim(), during.trim());
        let above_ppb =
            quantity::ratio(value).map_err(|_| wrong(value, format!("`{value}` is no ratio such as 50%")))?;
        let for_s = quantity::duration(during)
            .ok()
            .filter(|ns| ns % SECOND_NS == 0 && *ns > 0)
            .and_then(|ns| u32::try_from(ns / SECOND_NS).ok())
            .ok_or_else(|| wrong(during, format!("`{during}` is no whole number of seconds")))?;
        Ok(StopOn { class, above_ppb, for_s })
    }
}

impl fmt::Display for StopOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let during = duration_text(u64::from(self.for_s) * SECOND_NS);
        write!(f, "{}xx.ratio > {} for {during}", self.class, ratio_text(self.above_ppb))
    }
}

impl Serialize for StopOn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_on_is_read_and_written_the_same() {
        let text = StopOn::DEFAULT.to_string();
        assert_eq!(text, "5xx.ratio > 50% for 3s");
        assert_eq!(StopOn::parse(&text).ok(), Some(StopOn::DEFAULT));
        assert_eq!(StopOn::parse("6xx.ratio>0.5%  for 1m").unwrap().to_string(), "6xx.ratio > 0.5% for 1m");
    }

    #[test]
    fn mistakes_of_stop_on_are_pointed_at() {
        let table = [
            ("5xx.ratio", 0, 9),
            ("4xx.ratio > 50% for 3s", 0, 9),
            ("5xx.ratio > 50%", 12, 3),
            ("5xx.ratio > 0.5 for 3s", 12, 3),
            ("5xx.ratio > 50% for 3", 20, 1),
            ("5xx.ratio > 50% for 500ms", 20, 5),
            ("", 0, 0),
        ];
        for (expr, offset, len) in table {
            let error = StopOn::parse(expr).unwrap_err();
            assert_eq!((error.offset, error.len), (offset, len), "{expr}: {}", error.message);
        }
    }
}
