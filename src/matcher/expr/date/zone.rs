//! Time zones: an offset, or a name of the time zone database, which is part of the program.

use std::hash::{Hash, Hasher};
use std::sync::LazyLock;

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::unit::DAY_MILLIS;
use crate::matcher::expr::item::Failure;

/// A time zone as a filter names it.
#[derive(Clone, Debug)]
pub(crate) enum Zone {
    /// In milliseconds east of Greenwich.
    Offset(i64),
    Named(TimeZone),
}

static DATABASE: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

impl Zone {
    /// What a date is computed in where no time zone is named.
    pub const UTC: Zone = Zone::Offset(0);

    /// `Europe/Berlin`, `+01`, `+0100` or `+01:00`.
    pub fn parse(name: &str) -> Option<Zone> {
        if matches!(name, "UTC" | "GMT" | "Z" | "Etc/UTC" | "Etc/GMT") {
            return Some(Zone::UTC);
        }
        if name.starts_with(['+', '-']) {
            return offset(name).map(Zone::Offset);
        }
        let zone = DATABASE.get(name).ok()?;
        // The database takes any case, `mongod` does not.
        (zone.iana_name() == Some(name)).then_some(Zone::Named(zone))
    }

    /// How far the clocks there are ahead of UTC at an instant, in milliseconds.
    pub fn offset_at(&self, millis: i64) -> i64 {
        match self {
            Zone::Offset(offset) => *offset,
            Zone::Named(zone) => {
                // Before and after the years that the database knows, as at their ends.
                let end = if millis < 0 { Timestamp::MIN } else { Timestamp::MAX };
                let instant = Timestamp::from_millisecond(millis).unwrap_or(end);
                i64::from(zone.to_offset(instant).seconds()) * 1000
            }
        }
    }

    /// What the clocks there show at an instant.
    pub(in crate::matcher::expr) fn local(&self, millis: i64) -> Result<i64, Failure> {
        millis.checked_add(self.offset_at(millis)).ok_or(Failure)
    }

    /// The same as seen from another instant: where the clocks show it twice, by the offset of that
    /// one, if it is one of the two.
    pub(in crate::matcher::expr) fn instant_from(
        &self,
        from: i64,
        local: i64,
    ) -> Result<i64, Failure> {
        let offset = self.offset_at(from);
        let instant = local.checked_sub(offset).ok_or(Failure)?;
        if self.offset_at(instant) == offset { Ok(instant) } else { self.instant(local) }
    }

    /// The instant at which the clocks there show that: the first, where they do so twice. Where
    /// they skip it, as if they had not been put forward.
    pub(in crate::matcher::expr) fn instant(&self, local: i64) -> Result<i64, Failure> {
        if let Zone::Offset(offset) = self {
            return local.checked_sub(*offset).ok_or(Failure);
        }
        let near = |days: i64| local.checked_add(days * DAY_MILLIS).ok_or(Failure);
        let (before, after) = (self.offset_at(near(-1)?), self.offset_at(near(1)?));
        let by = |offset: i64| local.checked_sub(offset).ok_or(Failure);
        for offset in [before, after] {
            let instant = by(offset)?;
            if self.offset_at(instant) == offset {
                return Ok(instant);
            }
        }
        by(before)
    }
}

/// `+HH`, `+HHMM` or `+HH:MM`, in milliseconds.
fn offset(text: &str) -> Option<i64> {
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let (hours, minutes) = match digits.len() {
        2 => (digits, "0"),
        4 => digits.split_at_checked(2)?,
        5 => digits.split_once(':').filter(|(hours, _)| hours.len() == 2)?,
        _ => return None,
    };
    let number = |text: &str| {
        let are_digits = text.bytes().all(|byte| byte.is_ascii_digit());
        are_digits.then(|| text.parse::<i64>().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes) * 60_000)
}

impl PartialEq for Zone {
    fn eq(&self, other: &Zone) -> bool {
        match (self, other) {
            (Zone::Offset(ours), Zone::Offset(theirs)) => ours == theirs,
            (Zone::Named(ours), Zone::Named(theirs)) => ours.iana_name() == theirs.iana_name(),
            _ => false,
        }
    }
}

impl Eq for Zone {}

impl Hash for Zone {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Zone::Offset(offset) => offset.hash(state),
            Zone::Named(zone) => zone.iana_name().hash(state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_offsets() {
        for good in ["Europe/Berlin", "America/St_Johns", "UTC", "+01", "-0330", "+05:30"] {
            assert!(Zone::parse(good).is_some(), "{good}");
        }
        for bad in
            ["", "europe/berlin", "Nowhere", "+1", "+1:30", "+0x:10", "+99", "+01:00:00", "é"]
        {
            assert!(Zone::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn hours_that_come_twice_or_never() {
        let berlin = Zone::parse("Europe/Berlin").unwrap();
        let hour = 3_600_000;
        // 2021-10-31T02:30 there, twice: at 00:30 and 01:30.
        let local = 1_635_647_400_000;
        assert_eq!(berlin.instant(local), Ok(local - 2 * hour));
        // 2021-03-28T02:30 there, never.
        let local = 1_616_898_600_000;
        assert_eq!(berlin.instant(local), Ok(local - hour));
        // From winter, it is the second.
        let local = 1_635_647_400_000;
        assert_eq!(berlin.instant_from(local + 86_400_000, local), Ok(local - hour));
        assert_eq!(berlin.instant_from(local - 86_400_000, local), Ok(local - 2 * hour));
        for extreme in [i64::MIN, i64::MAX] {
            let _ = (berlin.local(extreme), berlin.instant(extreme));
        }
    }
}
