//! The `Date` of a message (RFC 3261 §20.17): what time the other side has.

/// Seconds from 1601, where FILETIME begins, to 1970.
const EPOCHS_APART: i64 = 11_644_473_600;
const MONTHS: &[u8] = b"JanFebMarAprMayJunJulAugSepOctNovDec";

/// Seconds since 1970 of `Mon, 05 Jan 2026 10:00:00 GMT`; `None` for anything else.
pub(super) fn read(value: &[u8]) -> Option<i64> {
    let text = value.get(value.iter().position(|b| *b == b',')? + 1..)?.trim_ascii();
    // `05 Jan 2026 10:00:00 GMT`
    let [
        d1,
        d2,
        b' ',
        m1,
        m2,
        m3,
        b' ',
        y @ ..,
        b' ',
        h1,
        h2,
        b':',
        n1,
        n2,
        b':',
        s1,
        s2,
        b' ',
        b'G',
        b'M',
        b'T',
    ] = text
    else {
        return None;
    };
    let number = |digits: &[u8]| -> Option<i64> {
        let plain = digits.iter().all(u8::is_ascii_digit);
        std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()
    };
    let (day, year) = (number(&[*d1, *d2])?, number(y).filter(|_| y.len() == 4)?);
    let month = MONTHS.chunks(3).position(|name| name == [*m1, *m2, *m3])? as i64 + 1;
    let (hour, minute, second) = (number(&[*h1, *h2])?, number(&[*n1, *n2])?, number(&[*s1, *s2])?);
    // Days from 1970 by years that begin in March: leap days come last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// Seconds since 1970 of 100 ns since 1601.
pub(super) fn of_filetime(filetime: u64) -> i64 {
    i64::try_from(filetime / 10_000_000).unwrap_or(i64::MAX) - EPOCHS_APART
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(read(b"Mon, 05 Jan 2026 10:00:00 GMT"), Some(1_767_607_200));
        assert_eq!(read(b"Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        assert_eq!(read(b"Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(of_filetime(116_444_736_000_000_000 + 600_000_000), 60);
        for wrong in [
            &b""[..],
            b"Mon, 05 Jan 26 10:00:00 GMT",
            b"05 Jan 2026 10:00:00 GMT",
            b"Mon, 05 Foo 2026 10:00:00 GMT",
        ] {
            assert_eq!(read(wrong), None);
        }
    }

    proptest! {
        #[test]
        fn no_date_makes_it_panic(value in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = read(&value);
            let _ = read(&[b"x,", &value[..]].concat());
        }
    }
}
