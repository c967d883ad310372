//! Quantities: durations, rates and ratios with their units, as integers.
//!
//! Inside, a duration is u64 nanoseconds, a rate u64 thousandths of an arrival
//! per second ("mHz"), a ratio u64 parts per billion. Nothing is rounded: a
//! text that is no whole number of these is an error.

/// Nanoseconds of a second.
pub const SECOND_NS: u64 = 1_000_000_000;
/// Parts per billion of the whole.
pub const WHOLE_PPB: u64 = 1_000_000_000;

/// Units of time with their nanoseconds, longest first.
const UNITS: [(&str, u64); 7] = [
    ("d", 86_400 * SECOND_NS),
    ("h", 3_600 * SECOND_NS),
    ("m", 60 * SECOND_NS),
    ("s", SECOND_NS),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuantityError {
    /// A number without a unit: its text.
    NoUnit(String),
    /// The unit is none of ours.
    Unit(String),
    /// No number where one belongs.
    Number,
    /// More digits than the finest step of this quantity.
    TooFine,
    /// Larger than can be held.
    TooLarge,
}

/// Reads a duration: `"30s"`, `"250ms"`, `"1.5h"`, `"1m30s"`, in nanoseconds.
///
/// # Errors
/// [`QuantityError`] for anything else, also for less than a nanosecond.
pub fn duration(text: &str) -> Result<u64, QuantityError> {
    let mut rest = text.trim();
    let mut total: u64 = 0;
    let mut last = u64::MAX;
    while !rest.is_empty() || last == u64::MAX {
        let (number, after) = split_number(rest)?;
        let after = after.trim_start();
        let end = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let next = next.trim_start();
        if unit.is_empty() {
            return Err(QuantityError::NoUnit(number.to_owned()));
        }
        let unit = if unit == "µs" { "us" } else { unit };
        let (_, ns) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(QuantityError::Unit(unit.into()))?;
        // `1m30s`, never `30s1m`: a larger unit behind a smaller one is a slip.
        if *ns >= last {
            return Err(QuantityError::Unit(unit.into()));
        }
        last = *ns;
        total = total.checked_add(scaled(number, *ns, 1)?).ok_or(QuantityError::TooLarge)?;
        rest = next;
    }
    Ok(total)
}

/// Reads a rate: `"600/s"`, `"0.5/s"`, `"90/m"`, `"3600/h"`, in mHz.
///
/// # Errors
/// [`QuantityError`] for anything else, also for a rate that is no multiple of 0.001/s.
pub fn rate(text: &str) -> Result<u64, QuantityError> {
    let (number, unit) = split_number(text.trim())?;
    let seconds = match unit.trim() {
        "" => return Err(QuantityError::NoUnit(number.to_owned())),
        "/s" => 1,
        "/m" | "/min" => 60,
        "/h" => 3_600,
        other => return Err(QuantityError::Unit(other.to_owned())),
    };
    scaled(number, 1_000, seconds)
}

/// Reads a ratio: `"0.1%"`, in parts per billion.
///
/// # Errors
/// [`QuantityError`] for anything else, also above 100 %.
pub fn ratio(text: &str) -> Result<u64, QuantityError> {
    let (number, unit) = split_number(text.trim())?;
    match unit.trim() {
        "" => Err(QuantityError::NoUnit(number.to_owned())),
        "%" => match scaled(number, WHOLE_PPB / 100, 1)? {
            ppb if ppb <= WHOLE_PPB => Ok(ppb),
            _ => Err(QuantityError::TooLarge),
        },
        other => Err(QuantityError::Unit(other.to_owned())),
    }
}

/// Reads a plain decimal in units of 1 / `scale`: `fraction("0.999", 1_000_000_000)`.
///
/// # Errors
/// [`QuantityError`] if it is no number, too large, or finer than that.
pub fn fraction(text: &str, scale: u64) -> Result<u64, QuantityError> {
    let (number, rest) = split_number(text.trim())?;
    if rest.is_empty() { scaled(number, scale, 1) } else { Err(QuantityError::Number) }
}

/// The shortest text of a duration that [`duration`] reads as the same.
#[must_use]
pub fn duration_text(ns: u64) -> String {
    let fits = |unit: u64| ns.is_multiple_of(unit);
    match ns {
        0 => "0s".to_owned(),
        _ if fits(3_600 * SECOND_NS) => format!("{}h", ns / (3_600 * SECOND_NS)),
        _ if fits(60 * SECOND_NS) => format!("{}m", ns / (60 * SECOND_NS)),
        _ if fits(SECOND_NS) => format!("{}s", ns / SECOND_NS),
        _ if fits(1_000_000) => format!("{}ms", ns / 1_000_000),
        _ if fits(1_000) => format!("{}us", ns / 1_000),
        _ => format!("{ns}ns"),
    }
}

/// The shortest text of a rate that [`rate`] reads as the same.
#[must_use]
pub fn rate_text(mhz: u64) -> String {
    format!("{}/s", thousandths_text(mhz))
}

/// `1500` as `1.5`.
#[must_use]
pub fn thousandths_text(thousandths: u64) -> String {
    let text = format!("{}.{:03}", thousandths / 1_000, thousandths % 1_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The shortest text of a ratio that [`ratio`] reads as the same.
#[must_use]
pub fn ratio_text(ppb: u64) -> String {
    let text = format!("{}.{:07}", ppb / 10_000_000, ppb % 10_000_000);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A decimal number at the front (digits, `_` between them, one dot) and what follows.
fn split_number(text: &str) -> Result<(&str, &str), QuantityError> {
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '_')).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let well_formed = number.starts_with(|c: char| c.is_ascii_digit())
        && number.ends_with(|c: char| c.is_ascii_digit())
        && number.matches('.').count() <= 1;
    if well_formed { Ok((number, rest)) } else { Err(QuantityError::Number) }
}

/// `number · unit / divisor`, exactly.
fn scaled(number: &str, unit: u64, divisor: u64) -> Result<u64, QuantityError> {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let mut value: u128 = 0;
    for digit in whole.chars().chain(decimals.chars()).filter_map(|c| c.to_digit(10)) {
        value = value
            .checked_mul(10)
            .and_then(|value| value.checked_add(u128::from(digit)))
            .ok_or(QuantityError::TooLarge)?;
    }
    let places = decimals.chars().filter(char::is_ascii_digit).count();
    let divisor = 10u128
        .checked_pow(u32::try_from(places).map_err(|_| QuantityError::TooFine)?)
        .and_then(|power| power.checked_mul(u128::from(divisor)))
        .ok_or(QuantityError::TooFine)?;
    let product = value.checked_mul(u128::from(unit)).ok_or(QuantityError::TooLarge)?;
    if product % divisor != 0 {
        return Err(QuantityError::TooFine);
    }
    u64::try_from(product / divisor).map_err(|_| QuantityError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_are_exact() {
        let table = [
            ("30s", Ok(30 * SECOND_NS)),
            ("250ms", Ok(250_000_000)),
            ("1m30s", Ok(90 * SECOND_NS)),
            ("1.5h", Ok(5_400 * SECOND_NS)),
            ("10us", Ok(10_000)),
            ("10µs", Ok(10_000)),
            ("0s", Ok(0)),
            ("25", Err(QuantityError::NoUnit("25".into()))),
            ("1m30", Err(QuantityError::NoUnit("30".into()))),
            ("2 h 5 m", Ok(7_500 * SECOND_NS)),
            ("1 hour", Err(QuantityError::Unit("hour".into()))),
            ("30s1m", Err(QuantityError::Unit("m".into()))),
            ("1sec", Err(QuantityError::Unit("sec".into()))),
            ("", Err(QuantityError::Number)),
            ("-1s", Err(QuantityError::Number)),
            ("1.2.3s", Err(QuantityError::Number)),
            ("0.5ns", Err(QuantityError::TooFine)),
            ("99999999999999d", Err(QuantityError::TooLarge)),
        ];
        for (text, expected) in table {
            assert_eq!(duration(text), expected, "{text}");
        }
    }

    #[test]
    fn rates_are_thousandths_and_never_rounded() {
        assert_eq!(rate("600/s"), Ok(600_000));
        assert_eq!(rate("0.5/s"), Ok(500));
        assert_eq!(rate("90/m"), Ok(1_500));
        assert_eq!(rate("3600/h"), Ok(1_000));
        assert_eq!(rate("1_000/s"), Ok(1_000_000));
        assert_eq!(rate("100/m"), Err(QuantityError::TooFine));
        assert_eq!(rate("600"), Err(QuantityError::NoUnit("600".into())));
        assert_eq!(rate("600 Hz"), Err(QuantityError::Unit("Hz".into())));
    }

    #[test]
    fn ratios_are_percent() {
        assert_eq!(ratio("0.1%"), Ok(1_000_000));
        assert_eq!(ratio("100%"), Ok(WHOLE_PPB));
        assert_eq!(ratio("101%"), Err(QuantityError::TooLarge));
        assert_eq!(ratio("0.001"), Err(QuantityError::NoUnit("0.001".into())));
        assert_eq!(fraction("0.999", WHOLE_PPB), Ok(999_000_000));
    }

    #[test]
    fn texts_are_read_back_as_the_same() {
        for ns in [0, 1, 1_500, 250_000_000, 90 * SECOND_NS, 7_200 * SECOND_NS] {
            assert_eq!(duration(&duration_text(ns)), Ok(ns));
        }
        for mhz in [1, 1_500, 50_000, 1_234_567] {
            assert_eq!(rate(&rate_text(mhz)), Ok(mhz));
        }
        for ppb in [1, 1_000_000, 20_000_000, WHOLE_PPB] {
            assert_eq!(ratio(&ratio_text(ppb)), Ok(ppb));
        }
    }
}
