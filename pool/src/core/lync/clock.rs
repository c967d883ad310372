//! Dates, out of a clock that knows none: the core has monotonic time only,
//! and is told once what UTC was.

use adsum_sip::Time;
use adsum_sip::time::MILLISECOND;

/// Milliseconds of UTC since 1970 at the beginning of the monotonic clock.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Clock {
    zero: u64,
}

impl Clock {
    /// At `now` it is so many milliseconds of UTC since 1970.
    pub(super) fn set(&mut self, now: Time, unix_ms: u64) {
        self.zero = unix_ms.saturating_sub(now.0 / MILLISECOND);
    }

    /// Milliseconds of UTC since 1970.
    pub(super) fn unix_ms(self, now: Time) -> u64 {
        self.zero + now.0 / MILLISECOND
    }
}

/// Year, month, day and weekday (0 is Sunday) of so many days since 1970, by
/// Howard Hinnant's arithmetic over eras of 400 years.
fn civil(days: u64) -> (u64, u64, u64, usize) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day, ((days + 4) % 7) as usize)
}

fn digits(number: u64, width: u32, out: &mut Vec<u8>) {
    for place in (0..width).rev() {
        out.push(b'0' + (number / 10u64.pow(place) % 10) as u8);
    }
}

fn time_of_day(ms: u64, out: &mut Vec<u8>) {
    for (at, part) in [ms / 3_600_000 % 24, ms / 60_000 % 60, ms / 1_000 % 60].into_iter().enumerate() {
        if at > 0 {
            out.push(b':');
        }
        digits(part, 2, out);
    }
}

/// `2026-01-05T09:00:00.000`, as `publishTime` wants it.
pub(super) fn write_date(unix_ms: u64, out: &mut Vec<u8>) {
    let (year, month, day, _) = civil(unix_ms / 86_400_000);
    digits(year, 4, out);
    out.push(b'-');
    digits(month, 2, out);
    out.push(b'-');
    digits(day, 2, out);
    out.push(b'T');
    time_of_day(unix_ms, out);
    out.push(b'.');
    digits(unix_ms % 1_000, 3, out);
}

/// `Mon, 05 Jan 2026 10:00:00 GMT`, as `Date` wants it (RFC 3261 §20.17).
pub(super) fn write_http_date(unix_ms: u64, out: &mut Vec<u8>) {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (year, month, day, weekday) = civil(unix_ms / 86_400_000);
    out.extend_from_slice(DAYS[weekday].as_bytes());
    out.extend_from_slice(b", ");
    digits(day, 2, out);
    out.push(b' ');
    out.extend_from_slice(MONTHS[month as usize - 1].as_bytes());
    out.push(b' ');
    digits(year, 4, out);
    out.push(b' ');
    time_of_day(unix_ms, out);
    out.extend_from_slice(b" GMT");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let text = |ms| {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            write_date(ms, &mut a);
            write_http_date(ms, &mut b);
            (String::from_utf8(a).unwrap(), String::from_utf8(b).unwrap())
        };
        for (ms, date, http) in [
            (0, "1970-01-01T00:00:00.000", "Thu, 01 Jan 1970 00:00:00 GMT"),
            (951_782_399_999, "2000-02-28T23:59:59.999", "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_868_800_000, "2000-03-01T00:00:00.000", "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_767_607_200_123, "2026-01-05T10:00:00.123", "Mon, 05 Jan 2026 10:00:00 GMT"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000", "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            assert_eq!(text(ms), (date.to_owned(), http.to_owned()));
        }
        let mut clock = Clock::default();
        clock.set(Time(5_000 * MILLISECOND), 1_767_607_200_123);
        assert_eq!(clock.unix_ms(Time(6_000 * MILLISECOND)), 1_767_607_201_123);
    }
}
