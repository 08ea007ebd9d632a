//! Parts of dates, in UTC.

use super::function::Function;
use super::item::{Computed, Failure, Item};
use crate::event::json::civil;
use crate::event::raw::tag;

const DAY_MILLIS: i64 = 86_400_000;

pub(super) fn part<'a>(function: Function, argument: &Item<'a>) -> Computed<'a> {
    if argument.is_nullish() {
        return Ok(Item::NULL);
    }
    let value = argument.value();
    let millis = match value.tag {
        tag::DATE => value.i64(),
        tag::TIMESTAMP => (value.i64() as u64 >> 32) as i64 * 1000,
        tag::OBJECT_ID => {
            let [a, b, c, d] = value.bytes();
            i64::from(i32::from_be_bytes([a, b, c, d])) * 1000
        }
        _ => return Err(Failure),
    };
    let (days, in_day) = (millis.div_euclid(DAY_MILLIS), millis.rem_euclid(DAY_MILLIS));
    let (year, month, day) = civil(days);
    let part = match function {
        Function::Year => year,
        Function::Month => month,
        Function::DayOfMonth => day,
        // The first day of 1970 was a Thursday, the fifth day of a week that begins with 1.
        Function::DayOfWeek => (days + 4).rem_euclid(7) + 1,
        Function::DayOfYear => {
            let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
            let month = usize::try_from(month).map_err(|_| Failure)?;
            let start = before.get(month - 1).copied().ok_or(Failure)?;
            start + day + i64::from(is_leap && month > 2)
        }
        Function::Hour => in_day / 3_600_000,
        Function::Minute => in_day / 60_000 % 60,
        Function::Second => in_day / 1000 % 60,
        Function::Millisecond => in_day % 1000,
        _ => return Err(Failure),
    };
    Ok(Item::int(i32::try_from(part).map_err(|_| Failure)?))
}

/// The date as text, always with milliseconds.
pub(super) fn iso(millis: i64) -> String {
    let (days, in_day) = (millis.div_euclid(DAY_MILLIS), millis.rem_euclid(DAY_MILLIS));
    let (year, month, day) = civil(days);
    let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (second, millis) = (in_day / 1000 % 60, in_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// A timestamp as `mongod` turns it into text: without the year, with its increment.
pub(super) fn pretty(timestamp: u64) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (seconds, increment) = ((timestamp >> 32) as i64, timestamp & 0xffff_ffff);
    let (_, month, day) = civil(seconds / 86_400);
    let name = usize::try_from(month - 1).ok().and_then(|month| MONTHS.get(month));
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let name = name.copied().unwrap_or_default();
    format!("{name} {day:2} {hour:02}:{minute:02}:{second:02}:{increment}")
}
