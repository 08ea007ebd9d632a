//! Units of time, days of the week, and the calendar: days counted from 1970-01-01, and back.

use crate::event::json::civil;
use crate::matcher::expr::item::Failure;

pub(in crate::matcher::expr) const HOUR_MILLIS: i64 = 3_600_000;
pub(in crate::matcher::expr) const DAY_MILLIS: i64 = 24 * HOUR_MILLIS;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Unit {
    Year,
    Quarter,
    Month,
    Week,
    Day,
    Hour,
    Minute,
    Second,
    Millisecond,
}

pub(in crate::matcher::expr) const UNITS: [(&str, Unit); 9] = [
    ("year", Unit::Year),
    ("quarter", Unit::Quarter),
    ("month", Unit::Month),
    ("week", Unit::Week),
    ("day", Unit::Day),
    ("hour", Unit::Hour),
    ("minute", Unit::Minute),
    ("second", Unit::Second),
    ("millisecond", Unit::Millisecond),
];

/// Days from Monday on. `mongod` takes their first three letters, too.
pub(in crate::matcher::expr) const WEEKDAYS: [&str; 7] =
    ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// What a unit is made of: an unchanging time, days, or months.
pub(in crate::matcher::expr) enum Length {
    Millis(i64),
    Days(i64),
    Months(i64),
}

impl Unit {
    pub(in crate::matcher::expr) fn length(self) -> Length {
        match self {
            Unit::Year => Length::Months(12),
            Unit::Quarter => Length::Months(3),
            Unit::Month => Length::Months(1),
            Unit::Week => Length::Days(7),
            Unit::Day => Length::Days(1),
            Unit::Hour => Length::Millis(HOUR_MILLIS),
            Unit::Minute => Length::Millis(60_000),
            Unit::Second => Length::Millis(1000),
            Unit::Millisecond => Length::Millis(1),
        }
    }
}

/// A date and a time of day, without a time zone.
#[derive(Clone, Copy)]
pub(in crate::matcher::expr) struct Local {
    /// From 1970-01-01.
    pub days: i64,
    pub in_day: i64,
    pub year: i64,
    pub month: i64,
    pub day: i64,
}

impl Local {
    /// From milliseconds since 1970, to which the offset of the time zone has been added.
    pub fn of(millis: i64) -> Local {
        let (days, in_day) = (millis.div_euclid(DAY_MILLIS), millis.rem_euclid(DAY_MILLIS));
        let (year, month, day) = civil(days);
        Local { days, in_day, year, month, day }
    }

    /// 0 to 23.
    pub fn hour(self) -> i64 {
        self.in_day / HOUR_MILLIS
    }

    /// 0 to 59.
    pub fn minute(self) -> i64 {
        self.in_day / 60_000 % 60
    }

    /// 0 to 59: BSON has no leap seconds.
    pub fn second(self) -> i64 {
        self.in_day / 1000 % 60
    }

    /// 0 to 999.
    pub fn millisecond(self) -> i64 {
        self.in_day % 1000
    }

    /// From 1 on.
    pub fn day_of_year(self) -> i64 {
        self.days - days_of(self.year, 1, 1) + 1
    }

    /// Sunday is 1.
    pub fn day_of_week(self) -> i64 {
        // The first day of 1970 was a Thursday.
        (self.days + 4).rem_euclid(7) + 1
    }

    /// Monday is 1.
    pub fn iso_day_of_week(self) -> i64 {
        (self.days + 3).rem_euclid(7) + 1
    }

    /// The year to which the week belongs: that of its Thursday.
    pub fn iso_week_year(self) -> i64 {
        civil(self.thursday()).0
    }

    /// 1 to 53, in the year of [`Local::iso_week_year`]; the first week is that of the first
    /// Thursday.
    pub fn iso_week(self) -> i64 {
        (self.thursday() - days_of(self.iso_week_year(), 1, 1)) / 7 + 1
    }

    /// Weeks begin on Sunday, and days before the first one are in week 0.
    pub fn week(self) -> i64 {
        (self.day_of_year() - 1 + 7 - (self.day_of_week() - 1)) / 7
    }

    fn thursday(self) -> i64 {
        self.days - self.iso_day_of_week() + 4
    }
}

/// The day counted from 1970-01-01. Months beyond the year's go on into other years.
pub(in crate::matcher::expr) fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = year + (month - 1).div_euclid(12);
    let month = (month - 1).rem_euclid(12) + 1;
    // Years are counted from March, so that the leap day is the last.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Milliseconds of a day and a time in it.
pub(in crate::matcher::expr) fn millis_of(days: i64, in_day: i64) -> Result<i64, Failure> {
    days.checked_mul(DAY_MILLIS).and_then(|millis| millis.checked_add(in_day)).ok_or(Failure)
}

/// The day so many months later; at most the last one of its month.
pub(in crate::matcher::expr) fn months_later(from: Local, months: i64) -> Result<i64, Failure> {
    let month = (from.month - 1).checked_add(months).ok_or(Failure)?;
    let year = from.year + month.div_euclid(12);
    // Beyond, no date of 64 bits lies, and days would overflow.
    if year.abs() > 300_000_000 {
        return Err(Failure);
    }
    let month = month.rem_euclid(12) + 1;
    let length = days_of(year, month + 1, 1) - days_of(year, month, 1);
    Ok(days_of(year, month, from.day.min(length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates() {
        for days in (-1_000_000..1_000_000).step_by(37) {
            let (year, month, day) = civil(days);
            assert_eq!(days_of(year, month, day), days);
        }
        assert_eq!(days_of(2024, 14, 1), days_of(2025, 2, 1));
        assert_eq!(days_of(2024, -1, 1), days_of(2023, 11, 1));
    }

    #[test]
    fn weeks() {
        let of = |year, month, day| {
            let local = Local::of(days_of(year, month, day) * DAY_MILLIS);
            (local.iso_week_year(), local.iso_week(), local.iso_day_of_week(), local.week())
        };
        assert_eq!(of(2021, 1, 3), (2020, 53, 7, 1));
        assert_eq!(of(2021, 1, 4), (2021, 1, 1, 1));
        assert_eq!(of(2024, 12, 30), (2025, 1, 1, 52));
        assert_eq!(of(2022, 1, 1), (2021, 52, 6, 0));
    }
}
