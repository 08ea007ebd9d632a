//! Functions of dates: their parts, and arithmetic with the calendar of a time zone.

pub(in crate::matcher::expr) mod parse;
pub(in crate::matcher::expr) mod text;
pub(in crate::matcher::expr) mod unit;
pub(in crate::matcher::expr) mod zone;

use std::sync::Arc;

use crate::event::raw::{Owned, tag};
use crate::matcher::expr::Expression;
use crate::matcher::expr::eval::eval;
use crate::matcher::expr::function::Function;
use crate::matcher::expr::item::{Computed, Failure, Item};
use crate::matcher::expr::scope::Scope;
use crate::matcher::value::number::Number;
use crate::matcher::value::write::Writer;
use text::Piece;
use unit::{DAY_MILLIS, HOUR_MILLIS, Length, Local, Unit, days_of};
use zone::Zone;

/// A function of dates with what is written in the filter of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DateCall {
    Part {
        function: Function,
        zone: Zone,
    },
    Add {
        unit: Unit,
        is_backwards: bool,
        zone: Zone,
    },
    Diff {
        unit: Unit,
        zone: Zone,
        week_start: i64,
    },
    Trunc {
        unit: Unit,
        size: i64,
        zone: Zone,
        week_start: i64,
    },
    ToParts {
        is_iso: bool,
        zone: Zone,
    },
    /// Year to millisecond, or ISO year to millisecond: seven arguments.
    FromParts {
        is_iso: bool,
        zone: Zone,
    },
    /// The date, and what stands for none.
    ToString {
        format: Arc<[Piece]>,
        zone: Zone,
    },
}

pub(in crate::matcher::expr) fn call<'a>(
    call: &'a DateCall,
    arguments: &'a [Expression<Owned>],
    scope: Scope<'_, 'a>,
) -> Computed<'a> {
    let argument = |index: usize| -> Computed<'a> {
        arguments.get(index).map_or(Err(Failure), |argument| eval(argument, scope))
    };
    if let DateCall::FromParts { is_iso, zone } = call {
        return from_parts(*is_iso, zone, arguments, scope);
    }
    let first = argument(0)?;
    match call {
        DateCall::Add { .. } | DateCall::Diff { .. } => {
            let second = argument(1)?;
            if first.is_nullish() || second.is_nullish() {
                return Ok(Item::NULL);
            }
            of_two(call, &first, &second)
        }
        DateCall::ToString { .. } if first.is_nullish() && arguments.len() > 1 => argument(1),
        _ if first.is_nullish() => Ok(Item::NULL),
        _ => of_one(call, &first),
    }
}

fn of_two<'a>(call: &DateCall, first: &Item<'a>, second: &Item<'a>) -> Computed<'a> {
    let date = instant(first)?;
    match call {
        DateCall::Add { unit, is_backwards, zone } => {
            let amount = second.number().ok().and_then(Number::exact_i64).ok_or(Failure)?;
            let amount = if *is_backwards { amount.checked_neg().ok_or(Failure)? } else { amount };
            add(date, *unit, amount, zone).map(Item::date)
        }
        DateCall::Diff { unit, zone, week_start } => {
            difference(date, instant(second)?, *unit, zone, *week_start).map(Item::long)
        }
        _ => Err(Failure),
    }
}

fn of_one<'a>(call: &DateCall, date: &Item<'a>) -> Computed<'a> {
    match call {
        DateCall::Part { function, zone } => part(*function, date, zone),
        DateCall::Trunc { unit, size, zone, week_start } => {
            truncate(instant(date)?, *unit, *size, zone, *week_start).map(Item::date)
        }
        DateCall::ToParts { is_iso, zone } => to_parts(instant(date)?, *is_iso, zone),
        DateCall::ToString { format, zone } => {
            let millis = instant(date)?;
            let offset = zone.offset_at(millis);
            let local = Local::of(zone.local(millis)?);
            text::write(format, local, offset).map(|text| Item::text(text.as_bytes()))
        }
        _ => Err(Failure),
    }
}

/// What counts as a date: timestamps and ObjectIds have one in them.
fn instant(item: &Item<'_>) -> Result<i64, Failure> {
    let value = item.value();
    Ok(match value.tag {
        tag::DATE => value.i64(),
        tag::TIMESTAMP => (value.i64() as u64 >> 32) as i64 * 1000,
        tag::OBJECT_ID => {
            let [a, b, c, d] = value.bytes();
            i64::from(i32::from_be_bytes([a, b, c, d])) * 1000
        }
        _ => return Err(Failure),
    })
}

pub(in crate::matcher::expr) fn part<'a>(
    function: Function,
    argument: &Item<'a>,
    zone: &Zone,
) -> Computed<'a> {
    if argument.is_nullish() {
        return Ok(Item::NULL);
    }
    let local = Local::of(zone.local(instant(argument)?)?);
    let part = match function {
        Function::Year => local.year,
        Function::Month => local.month,
        Function::DayOfMonth => local.day,
        Function::DayOfWeek => local.day_of_week(),
        Function::DayOfYear => local.day_of_year(),
        Function::Hour => local.hour(),
        Function::Minute => local.minute(),
        Function::Second => local.second(),
        Function::Millisecond => local.millisecond(),
        Function::Week => local.week(),
        Function::IsoWeek => local.iso_week(),
        Function::IsoWeekYear => return Ok(Item::long(local.iso_week_year())),
        Function::IsoDayOfWeek => local.iso_day_of_week(),
        _ => return Err(Failure),
    };
    Ok(Item::int(i32::try_from(part).map_err(|_| Failure)?))
}

/// Hours and less are a time; days and more are counted by the calendar there.
fn add(date: i64, unit: Unit, amount: i64, zone: &Zone) -> Result<i64, Failure> {
    let times = |length: i64| amount.checked_mul(length).ok_or(Failure);
    match unit.length() {
        Length::Millis(length) => date.checked_add(times(length)?).ok_or(Failure),
        Length::Days(length) => {
            let local = zone.local(date)?;
            let later = times(length)?.checked_mul(DAY_MILLIS).ok_or(Failure)?;
            zone.instant_from(date, local.checked_add(later).ok_or(Failure)?)
        }
        Length::Months(length) => {
            let local = Local::of(zone.local(date)?);
            let days = unit::months_later(local, times(length)?)?;
            zone.instant_from(date, unit::millis_of(days, local.in_day)?)
        }
    }
}

/// How many beginnings of a unit lie between two dates.
fn difference(
    start: i64,
    end: i64,
    unit: Unit,
    zone: &Zone,
    week_start: i64,
) -> Result<i64, Failure> {
    let (start_offset, end_offset) = (zone.offset_at(start), zone.offset_at(end));
    let (start_local, end_local) = (zone.local(start)?, zone.local(end)?);
    let (from, to) = (Local::of(start_local), Local::of(end_local));
    match unit.length() {
        Length::Millis(1) => end.checked_sub(start).ok_or(Failure),
        Length::Millis(length) => {
            // The clocks there tell where a unit begins, but not how much time has passed.
            let shown = end_local.div_euclid(length) - start_local.div_euclid(length);
            Ok(shown + (start_offset - end_offset) / length)
        }
        Length::Days(1) => Ok(to.days - from.days),
        Length::Days(length) => {
            let week = |days: i64| (days - week_begin(week_start)).div_euclid(length);
            Ok(week(to.days) - week(from.days))
        }
        Length::Months(length) => {
            let number = |local: Local| (local.year * 12 + local.month - 1).div_euclid(length);
            Ok(number(to) - number(from))
        }
    }
}

/// A day on which a week begins. 1970-01-05 was a Monday.
fn week_begin(week_start: i64) -> i64 {
    4 + week_start
}

/// 2000-01-01, from which intervals are counted.
const REFERENCE_DAY: i64 = 10_957;

/// The beginning of the interval that a date lies in.
fn truncate(
    date: i64,
    unit: Unit,
    size: i64,
    zone: &Zone,
    week_start: i64,
) -> Result<i64, Failure> {
    let times = |length: i64| size.checked_mul(length).ok_or(Failure);
    // Intervals begin as if counted on from there, which tells where clocks show an hour twice.
    let reference = zone.instant(REFERENCE_DAY * DAY_MILLIS)?;
    match unit.length() {
        Length::Millis(length) => {
            let interval = times(length)?;
            let into = date.checked_sub(reference).ok_or(Failure)?.rem_euclid(interval);
            date.checked_sub(into).ok_or(Failure)
        }
        Length::Days(length) => {
            let local = Local::of(zone.local(date)?);
            let first = match unit {
                // The first day of that name from the reference on.
                Unit::Week => {
                    let after = week_begin(week_start) - REFERENCE_DAY;
                    REFERENCE_DAY + after.rem_euclid(7)
                }
                _ => REFERENCE_DAY,
            };
            let into = (local.days - first).rem_euclid(times(length)?);
            zone.instant_from(reference, unit::millis_of(local.days - into, 0)?)
        }
        Length::Months(length) => {
            let local = Local::of(zone.local(date)?);
            let months = (local.year - 2000) * 12 + local.month - 1;
            let begin = months - months.rem_euclid(times(length)?);
            if begin.abs() > 12 * 300_000_000 {
                return Err(Failure);
            }
            zone.instant_from(reference, unit::millis_of(days_of(2000, 1 + begin, 1), 0)?)
        }
    }
}

fn to_parts<'a>(date: i64, is_iso: bool, zone: &Zone) -> Computed<'a> {
    let local = Local::of(zone.local(date)?);
    let day = if is_iso {
        [
            ("isoWeekYear", local.iso_week_year()),
            ("isoWeek", local.iso_week()),
            ("isoDayOfWeek", local.iso_day_of_week()),
        ]
    } else {
        [("year", local.year), ("month", local.month), ("day", local.day)]
    };
    let time = [
        ("hour", local.hour()),
        ("minute", local.minute()),
        ("second", local.second()),
        ("millisecond", local.millisecond()),
    ];
    let mut writer = Writer::document();
    for (name, part) in day.into_iter().chain(time) {
        let part = Item::int(i32::try_from(part).map_err(|_| Failure)?);
        writer.element(name.as_bytes(), part.value());
    }
    Ok(Item::Large(writer.into_document()))
}

fn from_parts<'a>(
    is_iso: bool,
    zone: &Zone,
    arguments: &'a [Expression<Owned>],
    scope: Scope<'_, 'a>,
) -> Computed<'a> {
    let mut parts = [0_i64; 7];
    let mut is_null = false;
    for (part, argument) in parts.iter_mut().zip(arguments) {
        let item = eval(argument, scope)?;
        if item.is_nullish() {
            is_null = true;
            continue;
        }
        *part = item.number().ok().and_then(Number::exact_i64).ok_or(Failure)?;
    }
    if is_null {
        return Ok(Item::NULL);
    }
    let [year, month, day, hour, minute, second, milli] = parts;
    let small = i64::from(i16::MIN)..=i64::from(i16::MAX);
    let are_small = [month, day, hour, minute].iter().all(|part| small.contains(part));
    if !(1..=9999).contains(&year) || !are_small {
        return Err(Failure);
    }
    let days = if is_iso {
        let fourth = Local::of(days_of(year, 1, 4) * DAY_MILLIS);
        fourth.days - fourth.iso_day_of_week() + (month - 1) * 7 + day
    } else {
        days_of(year, month, 1) + day - 1
    };
    let seconds = second.checked_mul(1000).and_then(|second| second.checked_add(milli));
    let in_day = seconds.and_then(|time| time.checked_add(hour * HOUR_MILLIS + minute * 60_000));
    let local = unit::millis_of(days, in_day.ok_or(Failure)?)?;
    zone.instant(local).map(Item::date)
}
