//! One function for each kind of number in the files, and the calendar.

/// Seconds with six decimals, from microseconds.
#[must_use]
pub fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

/// Seconds with nine decimals, for means and deviations in microseconds.
#[must_use]
pub fn fine_seconds(us: f64) -> String {
    format!("{:.9}", us / 1e6)
}

/// A rate with three decimals.
#[must_use]
pub fn rate(hz: f64) -> String {
    format!("{hz:.3}")
}

/// A ratio with six decimals.
#[must_use]
pub fn ratio(value: f64) -> String {
    format!("{value:.6}")
}

/// A quantile, as short as it is exact.
#[must_use]
pub fn quantile(q: f64) -> String {
    let text = format!("{q:.9}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// RFC 3339 in UTC, whole seconds.
#[must_use]
pub fn time(unix_s: i64) -> String {
    let (days, rest) = (unix_s.div_euclid(86_400), unix_s.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// RFC 3339 in UTC, milliseconds.
#[must_use]
pub fn time_ms(unix_ns: i64) -> String {
    let whole = time(unix_ns.div_euclid(1_000_000_000));
    let ms = unix_ns.rem_euclid(1_000_000_000) / 1_000_000;
    format!("{}.{ms:03}Z", whole.trim_end_matches('Z'))
}

/// Reads [`time_ms`] back, in nanoseconds.
#[must_use]
pub fn parse_time_ms(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    // Digits only: a sign or a number that no calendar has is no time of ours.
    let number = |part: &str, range: std::ops::RangeInclusive<i64>| {
        let digits = part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| part.parse().ok())?.filter(|n| range.contains(n))
    };
    let mut date = date.splitn(3, '-');
    let (year, month, day) =
        (number(date.next()?, 0..=9999)?, number(date.next()?, 1..=12)?, number(date.next()?, 1..=31)?);
    let (clock, ms) = time.split_once('.').unwrap_or((time, "0"));
    let mut clock = clock.splitn(3, ':');
    let (hour, minute, second) =
        (number(clock.next()?, 0..=23)?, number(clock.next()?, 0..=59)?, number(clock.next()?, 0..=59)?);
    let seconds = days_of(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    seconds.checked_mul(1_000_000_000)?.checked_add(number(ms, 0..=999)? * 1_000_000)
}

/// Days since 1970 to the Gregorian calendar (Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let yoe = year.rem_euclid(400);
    let doy = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// A latency for people: three significant digits with a unit.
#[must_use]
pub fn human(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{:.2} ms", us as f64 / 1e3),
        10_000..100_000 => format!("{:.1} ms", us as f64 / 1e3),
        100_000..1_000_000 => format!("{:.0} ms", us as f64 / 1e3),
        1_000_000..10_000_000 => format!("{:.2} s", us as f64 / 1e6),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_and_back() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(1_795_522_040), "2026-11-24T12:07:20Z");
        let ns = 1_795_522_040_123_000_000;
        assert_eq!(time_ms(ns), "2026-11-24T12:07:20.123Z");
        assert_eq!(parse_time_ms(&time_ms(ns)), Some(ns));
        for wrong in [
            "9223372036854775807-01-01T00:00:00.000Z",
            "2026-13-01T00:00:00Z",
            "2026-11-24T12:07:20.+1Z",
            "2026-11-24T12:07:20.9223372036854775807Z",
            "-1-1-1T0:0:0Z",
            "T",
            "Z",
            "",
        ] {
            assert_eq!(parse_time_ms(wrong), None, "{wrong}");
        }
        assert_eq!(seconds(1_234_567), "1.234567");
        assert_eq!(quantile(0.999), "0.999");
    }
}
