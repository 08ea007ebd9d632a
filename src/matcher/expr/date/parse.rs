//! Reading the functions of dates that have named arguments.
//!
//! Units, time zones, formats and the like are part of the filter: an expression, which could be
//! anything, is refused in their place. Dates and amounts are expressions.

use std::sync::Arc;

use bson::{Bson, Document};

use super::super::DateCall;
use super::text;
use super::unit::{UNITS, Unit, WEEKDAYS};
use super::zone::Zone;
use crate::diagnostic::nearest;
use crate::event::raw::Owned;
use crate::matcher::expr::Expression;
use crate::matcher::expr::function::{FUNCTIONS, Function};
use crate::matcher::operand::Operand;
use crate::matcher::parse::Parser;
use crate::matcher::value::number::Number;

type Open = Expression<Operand>;

/// The largest interval of `$dateTrunc`, as in `mongod`.
const MAX_BIN_SIZE: i64 = 100_000_000_000;

/// The arguments of `$dateFromParts`, and what stands for those that are not there.
const PARTS: [(&str, i32); 7] = [
    ("year", 1970),
    ("month", 1),
    ("day", 1),
    ("hour", 0),
    ("minute", 0),
    ("second", 0),
    ("millisecond", 0),
];
const ISO_PARTS: [&str; 3] = ["isoWeekYear", "isoWeek", "isoDayOfWeek"];

impl Parser {
    /// Whether the function is one of those here, or a part of a date in its longer form:
    /// `{ $hour: { date: …, timezone: … } }`.
    pub(in crate::matcher::expr) fn is_date_call(&self, name: &str, operand: &Bson) -> bool {
        let is_named = operand
            .as_document()
            .is_some_and(|document| document.keys().all(|key| !key.starts_with('$')));
        match name {
            "$dateAdd" | "$dateSubtract" | "$dateDiff" | "$dateTrunc" | "$dateToParts"
            | "$dateFromParts" | "$dateToString" => true,
            _ => is_named && part_of(name).is_some(),
        }
    }

    pub(in crate::matcher::expr) fn date_call(
        &mut self,
        name: &str,
        operand: &Bson,
    ) -> Option<Open> {
        let (call, arguments) = match name {
            "$dateAdd" | "$dateSubtract" => self.date_add(name, operand),
            "$dateDiff" => self.date_diff(operand),
            "$dateTrunc" => self.date_trunc(operand),
            "$dateToParts" => self.date_to_parts(operand),
            "$dateFromParts" => self.date_from_parts(operand),
            "$dateToString" => self.date_to_string(operand),
            _ => self.date_part(name, operand),
        }?;
        Some(Expression::Date(Arc::new(call), arguments))
    }

    fn date_part(&mut self, name: &str, operand: &Bson) -> Option<(DateCall, Vec<Open>)> {
        let document = self.named(name, operand, &["date", "timezone"], 1)?;
        let function = part_of(name)?;
        let date = self.argument(document, "date")?;
        let zone = self.zone(document)?;
        Some((DateCall::Part { function, zone }, vec![date?]))
    }

    fn date_add(&mut self, name: &str, operand: &Bson) -> Option<(DateCall, Vec<Open>)> {
        let known = ["startDate", "unit", "amount", "timezone"];
        let document = self.named(name, operand, &known, 3)?;
        let start = self.argument(document, "startDate")?;
        let amount = self.argument(document, "amount")?;
        let (unit, zone) = (self.unit(document)?, self.zone(document)?);
        let is_backwards = name == "$dateSubtract";
        Some((DateCall::Add { unit, is_backwards, zone }, vec![start?, amount?]))
    }

    fn date_diff(&mut self, operand: &Bson) -> Option<(DateCall, Vec<Open>)> {
        let known = ["startDate", "endDate", "unit", "timezone", "startOfWeek"];
        let document = self.named("$dateDiff", operand, &known, 3)?;
        let start = self.argument(document, "startDate")?;
        let end = self.argument(document, "endDate")?;
        let (unit, zone) = (self.unit(document)?, self.zone(document)?);
        let week_start = self.week_start(document)?;
        Some((DateCall::Diff { unit, zone, week_start }, vec![start?, end?]))
    }

    fn date_trunc(&mut self, operand: &Bson) -> Option<(DateCall, Vec<Open>)> {
        let known = ["date", "unit", "binSize", "timezone", "startOfWeek"];
        let document = self.named("$dateTrunc", operand, &known, 2)?;
        let date = self.argument(document, "date")?;
        let (unit, zone) = (self.unit(document)?, self.zone(document)?);
        let week_start = self.week_start(document)?;
        let size = match document.get("binSize") {
            None => 1,
            Some(size) => {
                let owned = Owned::from_bson(size);
                let size = Number::read(owned.get()).and_then(Number::exact_i64);
                let Some(size @ 1..=MAX_BIN_SIZE) = size else {
                    self.error(
                        format!("`binSize` is a whole number from 1 to {MAX_BIN_SIZE}"),
                        None,
                    );
                    return None;
                };
                size
            }
        };
        Some((DateCall::Trunc { unit, size, zone, week_start }, vec![date?]))
    }

    fn date_to_parts(&mut self, operand: &Bson) -> Option<(DateCall, Vec<Open>)> {
        let document = self.named("$dateToParts", operand, &["date", "timezone", "iso8601"], 1)?;
        let date = self.argument(document, "date")?;
        let is_iso = match document.get("iso8601") {
            None => false,
            Some(Bson::Boolean(is_iso)) => *is_iso,
            Some(_) => {
                self.error("`iso8601` is true or false", None);
                return None;
            }
        };
        let zone = self.zone(document)?;
        Some((DateCall::ToParts { is_iso, zone }, vec![date?]))
    }

    fn date_from_parts(&mut self, operand: &Bson) -> Option<(DateCall, Vec<Open>)> {
        let is_iso = operand.as_document().is_some_and(|one| one.contains_key(ISO_PARTS[0]));
        let mut parts = PARTS;
        if is_iso {
            for (part, name) in parts.iter_mut().zip(ISO_PARTS) {
                part.0 = name;
            }
        }
        let known: Vec<&str> = parts.iter().map(|(name, _)| *name).chain(["timezone"]).collect();
        let document = self.named("$dateFromParts", operand, &known, 1)?;
        let mut arguments = Vec::new();
        for (name, missing) in parts {
            arguments.push(match self.argument(document, name) {
                Some(argument) => argument,
                None => {
                    let missing = Owned::from_bson(&Bson::Int32(missing));
                    Some(Expression::Literal(Operand::Fixed(missing)))
                }
            });
        }
        let zone = self.zone(document)?;
        let arguments: Option<Vec<Open>> = arguments.into_iter().collect();
        Some((DateCall::FromParts { is_iso, zone }, arguments?))
    }

    fn date_to_string(&mut self, operand: &Bson) -> Option<(DateCall, Vec<Open>)> {
        let known = ["date", "format", "timezone", "onNull"];
        let document = self.named("$dateToString", operand, &known, 1)?;
        let mut arguments = vec![self.argument(document, "date")?];
        arguments.extend(self.argument(document, "onNull"));
        let zone = self.zone(document)?;
        let format = match document.get("format") {
            // With the Z in any time zone, as `mongod` has it.
            None => "%Y-%m-%dT%H:%M:%S.%LZ",
            Some(_) => self.written(document, "format")?,
        };
        let format = match text::pieces(format) {
            Ok(pieces) => pieces.into(),
            Err(letter) => {
                let shown = letter.map(String::from).unwrap_or_default();
                self.error_with(
                    format!("`%{shown}` is not a format specifier"),
                    "the specifiers are %Y %m %d %H %M %S %L %j %G %V %u %U %w %z %Z and %%",
                );
                return None;
            }
        };
        let arguments: Option<Vec<Open>> = arguments.into_iter().collect();
        Some((DateCall::ToString { format, zone }, arguments?))
    }

    /// A text that is part of the filter.
    fn written<'v>(&mut self, document: &'v Document, key: &str) -> Option<&'v str> {
        match document.get(key) {
            Some(Bson::String(text)) if !text.starts_with('$') => Some(text),
            _ => {
                self.at_key(key, |parser| {
                    parser.error_with(
                        format!("`{key}` must be a text that is written in the filter"),
                        "only dates and amounts can come from a document or a client",
                    );
                });
                None
            }
        }
    }

    fn unit(&mut self, document: &Document) -> Option<Unit> {
        let written = self.written(document, "unit")?;
        let found = UNITS.iter().find(|(name, _)| *name == written).map(|(_, unit)| *unit);
        if found.is_none() {
            let names = UNITS.map(|(name, _)| name);
            self.at_key("unit", |parser| {
                let hint = format!("the units are {}", names.join(", "));
                parser.error(format!("`{written}` is not a unit of time"), Some(hint));
            });
        }
        found
    }

    fn zone(&mut self, document: &Document) -> Option<Zone> {
        if !document.contains_key("timezone") {
            return Some(Zone::UTC);
        }
        let written = self.written(document, "timezone")?;
        let zone = Zone::parse(written);
        if zone.is_none() {
            self.at_key("timezone", |parser| {
                parser.error_with(
                    format!("`{written}` is not a time zone"),
                    "write a name such as `Europe/Berlin`, or an offset such as `+01:00`",
                );
            });
        }
        zone
    }

    /// Days from Monday on; without one, weeks begin on Sunday.
    fn week_start(&mut self, document: &Document) -> Option<i64> {
        if !document.contains_key("startOfWeek") {
            return Some(6);
        }
        let written = self.written(document, "startOfWeek")?.to_ascii_lowercase();
        let is_it = |day: &str| day == written || day[..3] == *written;
        let found = WEEKDAYS.iter().position(|day| is_it(day));
        if found.is_none() {
            self.at_key("startOfWeek", |parser| {
                let near = nearest(&written, WEEKDAYS);
                let hint = near.map(|near| format!("did you mean `{near}`?"));
                parser.error(format!("`{written}` is not a day of the week"), hint);
            });
        }
        found.and_then(|day| i64::try_from(day).ok())
    }
}

/// The function of that name, if it gives a part of a date.
fn part_of(name: &str) -> Option<Function> {
    let (_, function, ..) = FUNCTIONS.iter().find(|(known, ..)| *known == name)?;
    let is_part = matches!(
        function,
        Function::Year
            | Function::Month
            | Function::DayOfMonth
            | Function::DayOfWeek
            | Function::DayOfYear
            | Function::Hour
            | Function::Minute
            | Function::Second
            | Function::Millisecond
            | Function::Week
            | Function::IsoWeek
            | Function::IsoWeekYear
            | Function::IsoDayOfWeek
    );
    is_part.then_some(*function)
}
